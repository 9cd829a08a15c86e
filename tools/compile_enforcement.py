"""Compiles `engine/enforcement/known/*.toml` into what a run imports, `engine/enforcement/table.py`.

usage: python tools/compile_enforcement.py
"""

from __future__ import annotations

import sys

from engine.enforcement.known import COMPILED, KnownError, compiled


def main() -> int:
    """Compile, and say whether anything is not as it was."""
    try:
        text = compiled()
        with open(COMPILED, encoding="utf-8") as file:
            is_new = file.read() != text
        if is_new:
            with open(COMPILED, "w", encoding="utf-8") as file:
                file.write(text)
    except (KnownError, OSError) as error:
        print(f"compile: {error}", file=sys.stderr)
        return 1
    print(f"{COMPILED}: {'written' if is_new else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
