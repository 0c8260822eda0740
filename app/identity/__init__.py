"""Who is speaking: SPIFFE IDs, callers, forwarded certificates, token claims (pure)."""
