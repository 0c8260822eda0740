"""Quarantine: who is cut off, the receipt, the revocation lists."""
