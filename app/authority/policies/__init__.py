"""Policy documents: written, read, rolled back, explained, published to the workers."""
