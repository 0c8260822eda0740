"""The REST API: `/v1` over FastAPI; turns HTTP into calls of use cases and back."""
