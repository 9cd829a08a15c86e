"""What runsc makes of each thing that config.json can ask for: the data, and a bundle held against it."""
