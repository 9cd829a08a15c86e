"""Makes a container's root file system out of one static busybox, as examples/hello uses it.

The notable thing: it appears under its final name complete or not at all, so its mere existence says it is
usable, and any number of callers may make it at the same time.

usage: python tools/make_rootfs.py DIRECTORY [BUSYBOX]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from engine.survey.busybox import BUSYBOX_PATHS, is_static, static_busybox
from tools import SetupError, give_to_owner, say

#: What a bundle's mounts land on and programs expect, with modes.
_DIRECTORIES = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "sys": 0o755, "tmp": 0o1777}


def make_rootfs(directory: str, busybox: str) -> bool:
    """Make `directory` a root file system with `busybox` and a link for each of its applets.

    Answers False when it was already there. Raises `SetupError` and `OSError`.
    """
    directory = os.path.abspath(directory)
    if _is_made(directory):
        return False
    if not is_static(busybox):
        raise SetupError(f"{busybox} is not a static 64-bit program; install the package busybox-static")
    applets = subprocess.check_output([busybox, "--list"], text=True).split()  # noqa: S603 - a file, no shell
    parent, name = os.path.split(directory)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=parent) as scratch:
        root = os.path.join(scratch, name)
        os.mkdir(root)
        os.chmod(root, 0o755)  # noqa: S103 - whatever the umask, the container's users read it
        for entry, mode in _DIRECTORIES.items():
            os.mkdir(os.path.join(root, entry))
            os.chmod(os.path.join(root, entry), mode)
        shutil.copyfile(busybox, os.path.join(root, "bin/busybox"))
        os.chmod(os.path.join(root, "bin/busybox"), 0o755)  # noqa: S103
        for applet in applets:
            if applet != "busybox":
                os.symlink("busybox", os.path.join(root, "bin", applet))
        try:
            os.rename(root, directory)
        except OSError:
            if _is_made(directory):
                return False  # somebody else was faster, and theirs is as good
            if os.path.lexists(directory):
                raise SetupError(f"{directory} is there but was not made by this; remove it") from None
            raise
    give_to_owner(directory)
    return True


def _is_made(directory: str) -> bool:
    return os.path.isfile(os.path.join(directory, "bin/busybox"))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: make_rootfs.py DIRECTORY [BUSYBOX]", file=sys.stderr)
        return 2
    directory = arguments[0]
    busybox = arguments[1] if len(arguments) > 1 else static_busybox()
    if busybox is None:
        say(f"no static busybox among {', '.join(BUSYBOX_PATHS)}; install the package busybox-static")
        return 1
    try:
        if make_rootfs(directory, busybox):
            say(f"made {directory} from {busybox}")
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
