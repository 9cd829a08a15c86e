"""`engine doctor`: what is installed here, and what it enables."""
