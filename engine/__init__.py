"""Runs an OCI bundle under gVisor's runsc, through a lifecycle that a TLA+ spec models."""

__version__ = "0.1.0"
