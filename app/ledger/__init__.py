"""The tamper-evident record: entries, tree hashes (pure)."""
