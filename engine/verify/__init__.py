"""Check traces against the spec, and their signatures."""
