"""State of an earlier boot: runsc's files name processes that are gone, and whose pids others may have by now."""

from __future__ import annotations

import json

from engine.linux.files import PrivateDirectory
from engine.linux.regular_files import read_own, replace_own
from engine.state.record import MAX_SIZE


def forget_processes(root: PrivateDirectory, name: str) -> None:
    """Set the pids in runsc's file `name` in `root` to 0, as runsc kills those processes when it deletes.

    An absent file, or one that runsc cannot read either, stays as it is. Raises `OSError` and `UntrustedPathError`.
    """
    try:
        fields = json.loads(read_own(root, name, MAX_SIZE))
        fields["goferPid"] = 0
        if fields.get("sandbox"):
            fields["sandbox"]["pid"] = 0
        data = json.dumps(fields, separators=(",", ":")).encode()
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return
    replace_own(root, name, data, mode=0o640)
