"""What an earlier boot left: runsc's files name processes that are gone, and whose numbers others may have by now."""

from __future__ import annotations

import json
import os

from engine.linux.files import PrivateDirectory
from engine.state.record import read_own

_NEW = "engine-mended.new"


def forget_processes(root: PrivateDirectory, name: str) -> None:
    """Take the processes out of runsc's file `name` in `root`: runsc kills the ones it names when it deletes.

    A file that is not there, or that runsc cannot read either, is left. Raises `OSError` and `UntrustedPathError`.
    """
    data = read_own(root, name)
    if data is None:
        return
    try:
        fields = json.loads(data)
        fields["goferPid"] = 0
        if fields.get("sandbox"):
            fields["sandbox"]["pid"] = 0
        text = json.dumps(fields, separators=(",", ":"))
    except (ValueError, TypeError, AttributeError):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(_NEW, flags, 0o640, dir_fd=root.descriptor), "w") as file:
        file.write(text)
    os.rename(_NEW, name, src_dir_fd=root.descriptor, dst_dir_fd=root.descriptor)
