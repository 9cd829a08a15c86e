"""The trace of a run: format, writer and reader."""
