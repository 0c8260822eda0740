"""Settings to object graph; the only room that knows every adapter."""
