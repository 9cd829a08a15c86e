"""System calls without a wrapper in libc or a name in Python: syscall(2).

`ctypes` takes milliseconds to import, so it is imported when called.
"""

from __future__ import annotations

import os

#: The same on every architecture of gVisor, as are all since Linux 5.0.
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSMOUNT = 432
FSPICK = 433
OPENAT2 = 437
MOUNT_SETATTR = 442
OPEN_TREE_ATTR = 467


def system_call(number: int, *arguments: int | bytes, about: str | None = None) -> int:
    """Make it: integers are passed as longs, bytes as their address. Raises `OSError` that names `about`."""
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _answer(int(call(ctypes.c_long(number), *passed)), about)


def library_call(name: str, *arguments: int | bytes, about: str | None = None) -> int:
    """As `system_call`, by libc's `name`, for calls whose number differs between architectures."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), name)
    passed = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    return _answer(int(call(*passed)), about)


def address_of(data: bytes) -> int:
    """The address of `data`, for a structure that points to it. The caller keeps `data` meanwhile."""
    import ctypes

    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


def _answer(result: int, about: str | None) -> int:
    import ctypes

    if result >= 0:
        return result
    failure = ctypes.get_errno()
    raise OSError(failure, os.strerror(failure), about)
