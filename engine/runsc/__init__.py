"""runsc: its arguments, and how it is executed."""
