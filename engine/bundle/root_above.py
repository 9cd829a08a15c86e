"""Open a root file system whose path has `..`, by descriptors.

runsc cleans the path as text, and the kernel walks it: behind a link the two reach different directories. So both are
opened, and must be the same directory. Source: config.md, Root: relative to the bundle, wherever that leads.
"""

from __future__ import annotations

import errno
import os

from engine.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_root(directory: int, bundle: str, path: str) -> int:
    """The directory at `path`, which has `..`, from the bundle open on `directory` at the absolute path `bundle`.

    Returns a descriptor (O_PATH). Raises `OSError`, ENOTUNIQ where text and walk lead to two directories.
    """
    cleaned = os.path.normpath(path)
    if cleaned.startswith("/") or cleaned.split("/")[0] == "..":
        named = openat2(
            directory,
            os.path.normpath(os.path.join(bundle, path)),
            _DIRECTORY,
            resolve=RESOLVE_NO_MAGICLINKS,
        )
    else:
        named = openat2(directory, cleaned, _DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH)
    try:
        walked = openat2(directory, path, _DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS)
        try:
            is_same = os.path.sameopenfile(named, walked)
        finally:
            os.close(walked)
        if not is_same:
            raise OSError(errno.ENOTUNIQ, os.strerror(errno.ENOTUNIQ), path)
    except BaseException:
        os.close(named)
        raise
    return named
