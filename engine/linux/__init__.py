"""Thin, typed bindings to what Linux offers: walks by descriptor, namespaces, process state."""
