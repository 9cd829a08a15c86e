"""The TLA+ specs: run TLC and read its output."""
