"""Bearer tokens: verifying them against published keys, and a small issuer of our own."""
