"""`python -m engine`, and the console script `engine`.

SIGINT ends the process by itself until the engine is ready for it: an exception that Python raises in the middle
of an import can be lost, and the run would go on.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from engine.cli import main  # after the above

if __name__ == "__main__":
    raise SystemExit(main())
