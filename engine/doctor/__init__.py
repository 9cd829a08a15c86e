"""`engine doctor`: what is installed, and what it enables."""
