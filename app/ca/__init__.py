"""What may be signed: CSRs, profiles, issuance, impersonation (pure)."""
