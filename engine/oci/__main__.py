"""`python -m engine.oci`, and the console script `engine-oci`.

No garbage is collected during the imports, and what they made is never searched: it lives as long as the process.
"""

import _signal  # type: ignore[import-not-found]

# As in `engine`: until the engine handles SIGINT, it kills the process.
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

from engine.oci.cli import main  # noqa: E402 (after the above)

gc.freeze()
gc.enable()

if __name__ == "__main__":
    raise SystemExit(main())
