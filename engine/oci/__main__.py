"""`python -m engine.oci`, and the console script `engine-oci`."""

from __future__ import annotations

import signal

# As in `engine`: until the engine handles SIGINT, it kills the process.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from engine.oci.cli import main  # after the above

if __name__ == "__main__":
    raise SystemExit(main())
