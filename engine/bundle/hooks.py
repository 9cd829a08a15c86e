"""Judge the programs of a bundle's hooks, which runsc executes on the host as the caller.

The rules are those for runsc itself: root or the caller owns the file, nobody else can write it, nor change a directory
or link on the way to it. Whether a hook works is left to runsc. What its arguments name is not judged.

Sources: OCI runtime specification, config.md (POSIX-platform Hooks); execve(2), Interpreter scripts; proc(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from engine.bundle.oci_config import hooks_on_host
from engine.errors import BundleError, Reason, hint_for
from engine.linux.files import UntrustedPathError, open_trusted
from engine.linux.namespaces import unmapped_uid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Where only the host's root can write: there its unmapped uid, which other users have too, counts as root.
_SYSTEM = ("/bin/", "/etc/", "/lib/", "/lib64/", "/nix/", "/opt/", "/sbin/", "/usr/")
#: As many programs as the kernel goes through from a script to its interpreter.
_MAX_INTERPRETERS = 5
#: Bytes of a script that the kernel reads for its first line.
_FIRST_LINE = 256


def require_trusted(config: dict[str, Any]) -> None:
    """Raise `BundleError` for the first hook that another user than root and the caller could change.

    So for one that is not there: in /tmp, for example, others could put it there.
    """
    judged = set()
    for member, hook in hooks_on_host(config):
        if (path := hook["path"]) in judged:
            continue
        judged.add(path)
        where = f"{member}.path"
        try:
            _judge(path)
        except UntrustedPathError as error:
            raise BundleError(
                f"config.json: {where} is {path!r}, and {error}",
                reason=Reason.HOOK_UNSAFE,
                hint="keep hooks where only root or you can write, owned so, mode 0755",
                member=where,
            ) from None
        except OSError as error:
            raise BundleError(
                f"config.json: {where} is {path!r}, and {error.filename!r}: {error.strerror}",
                reason=Reason.HOOK_UNSAFE,
                hint=hint_for(error, "give the path of a program"),
                member=where,
            ) from None


def _judge(path: str) -> None:
    """Judge the program at `path`, and the interpreters that it names. Raises `UntrustedPathError` and `OSError`."""
    for _ in range(_MAX_INTERPRETERS):
        descriptor = _open_by_process(path) if path.startswith("/proc/") else _open_by_path(path)
        try:
            interpreter = _interpreter(descriptor)
        finally:
            os.close(descriptor)
        if interpreter is None:
            return
        if not interpreter.startswith("/"):
            raise UntrustedPathError(path, "is a script whose interpreter has no absolute path")
        path = interpreter


def _open_by_path(path: str) -> int:
    """Open the program at `path`, when it and all on the way to it were judged."""
    owners, unmapped = {0, os.geteuid()}, unmapped_uid()
    opened = open_trusted(
        path, owners, follow_links=True, unmapped=unmapped, device_without_links=os.stat("/proc").st_dev
    )
    try:
        if unmapped is not None and opened.path.startswith(_SYSTEM):
            owners.add(unmapped)
        status = os.fstat(opened.descriptor)
        _judge_file(opened.path, status, owners)
        # A link of another procfs leads elsewhere than its text says.
        if not os.path.samestat(status, os.stat(path)):
            raise UntrustedPathError(path, "is reached by a link that leads elsewhere than it says")
    except BaseException:
        os.close(opened.descriptor)
        raise
    return opened.descriptor


def _open_by_process(path: str) -> int:
    """Open the program of a process, /proc/PID/exe, when it was judged: the kernel executes that file itself."""
    _, _, process, name = [*path.split("/"), ""][:4]
    if path != f"/proc/{process}/exe" or not (process.isascii() and process.isdigit()):
        raise UntrustedPathError(path, "leads through /proc (only /proc/PID/exe may)")
    owners = {0, os.geteuid()}
    try:
        folder = os.open(f"/proc/{process}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UntrustedPathError(path, "has no process: another user's may get its number") from None
    try:
        if (owner := os.fstat(folder).st_uid) not in owners:
            raise UntrustedPathError(path, f"is of a process of uid {owner}")
        descriptor = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _judge_file(path, os.fstat(descriptor), owners)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _judge_file(path: str, status: os.stat_result, owners: Iterable[int]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UntrustedPathError(path, "is not a regular file")
    if status.st_mode & 0o022:
        raise UntrustedPathError(
            path, f"can be written by group or world (mode {stat.S_IMODE(status.st_mode):04o})"
        )
    if status.st_uid not in owners:
        raise UntrustedPathError(path, f"is owned by uid {status.st_uid}")


def _interpreter(descriptor: int) -> str | None:
    """The path of the interpreter that the open script names; None for any other file, or one we cannot read."""
    try:
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:
            start = file.read(_FIRST_LINE)
    except PermissionError:
        return None
    if not start.startswith(b"#!"):
        return None
    words = start[2:].partition(b"\n")[0].split(maxsplit=1)
    return os.fsdecode(words[0]) if words else None
