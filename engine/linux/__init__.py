"""Thin, typed bindings to Linux: path walks by descriptor, namespaces, processes."""
