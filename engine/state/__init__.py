"""Containers' state on disk: who may change it, and what may be removed."""
