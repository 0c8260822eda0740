"""Bearer tokens: verification against JWKS and the built-in issuer."""
