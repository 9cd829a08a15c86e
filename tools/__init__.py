"""What `./just` does to the system before the engine can run: parts by package name, the example's files."""

import sys


class SetupError(Exception):
    """Something cannot be set up; the text is one line: what, where, the remedy."""


def say(text: str) -> None:
    """One line on stderr: stdout belongs to the container that runs next."""
    print(f"setup: {text}", file=sys.stderr, flush=True)
