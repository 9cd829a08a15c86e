"""Makes this process see a kernel that does not have a system call, by a filter that answers as such a kernel does."""

from __future__ import annotations

import errno
import os

import pytest

from engine.linux import seccomp


def forget(number: int) -> None:
    """From here on the system call `number` is ENOSYS for this process and its children. Irreversible."""
    code = seccomp._assemble(
        (seccomp._LOAD, seccomp._NUMBER),
        seccomp._jump(seccomp._IF_EQUAL, number, otherwise="allow"),
        (seccomp._RETURN, seccomp._ERROR | errno.ENOSYS),
        "allow",
        (seccomp._RETURN, seccomp._ALLOW),
    )
    seccomp._install(code)


def skip_if_it_cannot_be_made() -> None:
    """The filter is written for machines whose numbers the engine knows."""
    if not seccomp.is_known_machine():
        pytest.skip(f"no filter is written for {os.uname().machine}")
