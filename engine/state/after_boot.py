"""What an earlier boot left: runsc's files name processes that are gone, and whose numbers others may have by now."""

from __future__ import annotations

import json

from engine.linux.files import PrivateDirectory
from engine.linux.regular_files import read_own, replace_own
from engine.state.record import LIMIT


def forget_processes(root: PrivateDirectory, name: str) -> None:
    """Take the processes out of runsc's file `name` in `root`: runsc kills the ones it names when it deletes.

    A file that is not there, or that runsc cannot read either, is left. Raises `OSError` and `UntrustedPathError`.
    """
    try:
        fields = json.loads(read_own(root, name, LIMIT))
        fields["goferPid"] = 0
        if fields.get("sandbox"):
            fields["sandbox"]["pid"] = 0
        data = json.dumps(fields, separators=(",", ":")).encode()
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return
    replace_own(root, name, data, mode=0o640)
