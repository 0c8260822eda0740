"""The demo: a node agent, a waypoint and clients around a real Gatehouse."""
