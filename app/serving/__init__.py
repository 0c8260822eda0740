"""Hardened HTTP listeners that rest, link and the supervisor share."""
