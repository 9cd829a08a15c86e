"""Whether a trace is one that the engine could have written, and whose signature it bears."""
