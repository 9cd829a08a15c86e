"""What `./just` does to the system before the engine can run: parts by package name, the example's files."""

import os
import sys


class SetupError(Exception):
    """Something cannot be set up; the text is one line: what, where, the remedy."""


def say(text: str) -> None:
    """One line on stderr: stdout belongs to the container that runs next."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def give_to_owner(path: str) -> None:
    """Give what root made at `path`, without following links, to the owner of the directory that it lies in.

    So that after `sudo ./just run` the owner of the checkout can go on without sudo. Raises `OSError`.
    """
    owner = os.stat(os.path.dirname(os.path.abspath(path)))
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    os.lchown(path, owner.st_uid, owner.st_gid)
    for _, directories, files, descriptor in os.fwalk(path):
        for name in (*directories, *files):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)
