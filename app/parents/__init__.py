"""Where authorities and roots come from outside: a parent's files, an online parent, peers' bundles."""
