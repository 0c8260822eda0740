"""Generated protobuf code; made by scripts/generate-protobuf from proto/, never edited."""
