"""Measurements of the engine as whole processes, beside what else starts the same container."""
