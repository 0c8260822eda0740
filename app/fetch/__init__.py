"""The one HTTP client that asks servers which somebody configured: bounded, and blind to internal addresses."""
