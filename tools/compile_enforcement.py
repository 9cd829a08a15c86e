"""Compiles `engine/enforcement/known/*.toml` into what a run imports, `engine/enforcement/table.py`, and a page.

usage: python tools/compile_enforcement.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.enforcement.known import COMPILED, KnownError, compiled
from tools.asked_page import PAGE, text


def main() -> int:
    """Compile, write docs/asked-and-enforced.md, and say whether anything is not as it was."""
    try:
        for path, content in ((Path(COMPILED), compiled()), (PAGE, text())):
            is_new = not path.exists() or path.read_text(encoding="utf-8") != content
            if is_new:
                path.write_text(content, encoding="utf-8")
            print(f"{path}: {'written' if is_new else 'as it was'}")
    except (KnownError, OSError) as error:
        print(f"compile: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
