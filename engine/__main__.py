"""`python -m engine`, and the console script `engine`.

SIGINT ends the process by itself until the engine is ready for it: an exception that Python raises in the middle
of an import can be lost, and the run would go on. No garbage is collected meanwhile: a run makes too little of it to
pay for the search, and is over when it becomes runsc.
"""

# The built-in half of `signal`; the other half imports more, and until here SIGINT ends in a traceback.
import _signal  # type: ignore[import-not-found]

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import sys

# With `python -m`, the current directory comes first: a bundle's files must not be imported.
if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]

import gc

gc.disable()

import os  # noqa: E402 (after the above)

if None in (sys.stdin, sys.stdout, sys.stderr) or not (os.get_blocking(1) and os.get_blocking(2)):
    from engine.linux.streams import mend

    mend()

from engine.quick import import_argparse  # noqa: E402 (after the above)

import_argparse()

from engine.cli.main import main  # noqa: E402 (after the above)

if __name__ == "__main__":
    raise SystemExit(main())
