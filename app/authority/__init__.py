"""Use cases of the authority process, one verb a module, and the ports they need."""
