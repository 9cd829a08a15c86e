"""The TLA+ specs: TLC as a subprocess, and what it answers."""
