"""Keeping the ledger: numbering, checkpoints, proofs, and noticing that it went backwards."""
