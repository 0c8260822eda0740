"""Issuing: from a request to a certificate on record, and everything that is asked about certificates."""
