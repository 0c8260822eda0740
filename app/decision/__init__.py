"""Use cases of the decision worker, and the ports they need."""
