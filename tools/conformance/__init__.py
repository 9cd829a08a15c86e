"""The machine held against the spec, exhaustively: `comparison.compare`."""
