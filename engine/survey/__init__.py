"""Tries what runsc makes of a bundle, one change at a time, and holds it against the data."""
