"""Sealed keys, their passphrase, and signing."""
