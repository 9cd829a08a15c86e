"""Refuse what is known not to start, before anything is made: above all the container's first program.

runsc would say it too, but late and in its own words. The path is walked inside the root file system only, by
descriptors, and by runsc's rules: a name without a slash is searched in PATH, where entries that are not absolute are
skipped. What can change before the program is started is left to runsc: what lies under a mount, and everything where
a hook of the bundle runs.

Exit codes as shells, docker and podman have them: 127 not found, 126 found and not executable. docker and podman read
the words "executable file not found", "no such file or directory" and "permission denied".

Sources: elf(5), execve(2); gVisor: pkg/sentry/fsimpl/user/path.go, pkg/sentry/loader.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence

from engine.bundle.bundle import FIRST_BYTES, elf_fault, loader
from engine.bundle.oci_config import is_bind
from engine.bundle.process import DEFAULT_USER
from engine.errors import (
    BundleError,
    PrivilegeError,
    ProgramAbsentError,
    ProgramNotExecutableError,
    Reason,
    UsageError,
)
from engine.linux.openat2 import open_in_root
from engine.options import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from engine.bundle.bundle import Bundle
    from engine.options import RunOptions

    Mount = dict[str, Any]

#: A script's interpreter may be a script, execve(2).
_MAX_SCRIPTS = 4
#: gVisor reads no more of the line after `#!`; Linux reads twice as much.
_MAX_LINE = 127
_STATUS = "/proc/self/status"
#: What runsc mounts where the bundle does not.
_RUNSC_MOUNTS = ("/proc", "/sys", "/dev", "/tmp")  # noqa: S108
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer")
#: Sources that each process sees otherwise.
_PER_PROCESS = ("/proc/", "/dev/fd/", "/dev/std")
_DENIED = "permission denied"
#: Characters of a name in a message.
_SHOWN_LENGTH = 256
_HINT = "correct $.process.args[0], or the root file system"


def check(
    bundle: Bundle, options: RunOptions, *, with_program: bool = True, has_terminal: bool | None = None
) -> None:
    """Refuse what is known not to start: user, network, terminal, a bind mount's source, or the program.

    `with_program`: false where a checkpoint brings the processes. `has_terminal`: whether the program gets a terminal
    if it wants one; None for whether stdin is one. Raises `UsageError`, `PrivilegeError` and `BundleError`; that for
    the program has the exit code 126 or 127.
    """
    config = bundle.config
    _check_options(config, options)
    _check_user_namespace(config, options)
    if with_program and config["process"].get("terminal"):
        _check_terminal(os.isatty(0) if has_terminal is None else has_terminal)
    hooks, namespaces = config.get("hooks", {}), config.get("linux", {}).get("namespaces", ())
    if any(hooks.get(kind) for kind in _HOOKS):
        return
    if any(space["type"] == "mount" and "path" in space for space in namespaces):
        return
    for at, mount in enumerate(config.get("mounts", ())):
        _check_source(bundle, at, mount)
    if with_program:
        # A file that the engine may not read, for example: runsc tries, and says what it finds.
        with contextlib.suppress(OSError):
            _Program(bundle, rootless=options.rootless).check()


def _check_options(config: dict[str, Any], options: RunOptions) -> None:
    if options.rootless:
        if options.network == Network.SANDBOX:
            raise UsageError(
                "runsc has no --network sandbox with --rootless",
                reason=Reason.UNSUPPORTED,
                hint="use --network none or --network host",
            )
    elif os.geteuid() != 0 and not _has_capabilities():
        namespaces = config.get("linux", {}).get("namespaces", ())
        if not any(namespace["type"] == "user" for namespace in namespaces):
            raise PrivilegeError(
                f"uid {os.geteuid()} may not set up a container",
                reason=Reason.NO_PRIVILEGE,
                hint="use --rootless, or run it as root",
            )


def _check_user_namespace(config: dict[str, Any], options: RunOptions) -> None:
    """Refuse a new user namespace for which runsc could write no mapping: its gofer does not start."""
    linux = config.get("linux", {})
    for at, space in enumerate(linux.get("namespaces", ())):
        if space["type"] != "user" or "path" in space:
            continue
        member = f"$.linux.namespaces[{at}]"
        if options.rootless and os.geteuid() != 0:
            what, hint = "--rootless makes the user namespace itself", "take it out of config.json"
        elif not (linux.get("uidMappings") and linux.get("gidMappings")):
            what, hint = (
                "a new one needs uidMappings and gidMappings",
                "give both, or take the namespace out of config.json",
            )
        else:
            continue
        raise BundleError(
            f"config.json: {member} is a user namespace, and {what}",
            reason=Reason.UNSUPPORTED,
            hint=hint,
            member=member,
        )


def _check_terminal(has_terminal: bool) -> None:
    """Refuse a program that wants a terminal and gets none: runsc would lose its output."""
    if not has_terminal:
        raise BundleError(
            "config.json: $.process.terminal is true, and stdin is no terminal",
            reason=Reason.UNSUPPORTED,
            hint="start it from a terminal, give engine-oci --console-socket, or set it to false",
            member="$.process.terminal",
        )


def _has_capabilities() -> bool:
    """Whether this process has any capability, proc_pid_status(5); true where nobody can say."""
    try:
        with open(_STATUS, "rb") as status:
            return not any(line.split() == [b"CapEff:", b"0000000000000000"] for line in status)
    except OSError:
        return True


def _check_source(bundle: Bundle, at: int, mount: Mount) -> None:
    source = mount.get("source")
    if not source or not is_bind(mount) or source.startswith(_PER_PROCESS):
        return
    try:
        os.stat(os.path.join(bundle.path, source))
    except (FileNotFoundError, NotADirectoryError) as error:
        member = f"$.mounts[{at}].source"
        raise BundleError(
            f"config.json: {member} is {source!r}: {(error.strerror or '').lower()}",
            reason=Reason.SOURCE_ABSENT,
            hint="create it, or leave out the mount",
            member=member,
        ) from None
    except (OSError, ValueError):
        pass  # runsc may see more, or says why not


class _Program:
    """The program of one bundle. Its methods raise `OSError` where runsc has to find out."""

    def __init__(self, bundle: Bundle, *, rootless: bool) -> None:
        config = bundle.config
        self._root = bundle.rootfs_directory
        self._mounts: list[Mount] = config.get("mounts", [])
        self._process: dict[str, Any] = config["process"]
        self._name: str = self._process["args"][0]
        linux = config.get("linux", {})
        user = self._process.get("user", DEFAULT_USER)
        capable = "CAP_DAC_OVERRIDE" in self._process.get("capabilities", {}).get("effective", ())
        mapped = rootless or any(space["type"] == "user" for space in linux.get("namespaces", ()))
        #: None where any execute bit is enough, or the ids in the container are not those of the files.
        self._ids: tuple[int, set[int]] | None = None
        if not mapped and not capable:
            self._ids = user["uid"], {user["gid"], *user.get("additionalGids", ())}
        self._places: list[str] = []  # every name that was looked up

    def check(self) -> None:
        if "/" in self._name:
            path = os.path.join(self._process["cwd"], self._name)
            descriptor = self._open(path if self._name.startswith("/") else os.path.normpath(path))
            if isinstance(descriptor, str):
                missing = descriptor != _DENIED
                self._refuse(
                    f"stat {_short(self._name)}: {descriptor}" if missing else descriptor, missing=missing
                )
                return
        else:
            found = self._search()
            if found is None:
                return
            descriptor = found
        try:
            self._check_content(descriptor)
        finally:
            os.close(descriptor)

    def _search(self) -> int | None:
        """The first file of that name in PATH that may be executed."""
        denied = False
        for entry in _search_path(self._process.get("env", ())):
            if not entry.startswith("/"):
                continue
            descriptor = self._open(os.path.normpath(os.path.join(entry, self._name)))
            if isinstance(descriptor, int):
                return descriptor
            denied = denied or (descriptor == _DENIED and self._name != "")
        if denied:
            self._refuse(_DENIED, missing=False)
        else:
            self._refuse("executable file not found in $PATH", missing=True)
        return None

    def _open(self, path: str) -> int | str:
        """A descriptor (O_PATH) of the regular file that may be executed; else what is wrong, in the system's words."""
        try:
            descriptor = self._walk(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                return (error.strerror or "").lower()
            raise
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and self._may_execute(status):
            return descriptor
        os.close(descriptor)
        return _DENIED

    def _may_execute(self, status: os.stat_result) -> bool:
        bits = status.st_mode & 0o111
        if self._ids is None:
            return bits != 0
        uid, gids = self._ids
        return bool(bits & (0o100 if status.st_uid == uid else 0o010 if status.st_gid in gids else 0o001))

    def _walk(self, path: str) -> int:
        return open_in_root(self._root, path, self._places)

    def _check_content(self, descriptor: int) -> None:
        for _ in range(_MAX_SCRIPTS):
            readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                first = os.pread(readable, FIRST_BYTES, 0)
                interpreter = _script_interpreter(first)
                is_script = interpreter is not None
                if is_script and len(first) > _MAX_LINE and b"\n" not in first[:_MAX_LINE]:
                    return
                if interpreter is None:
                    if what := elf_fault(first):
                        self._refuse(f"exec format error ({what})", missing=False)
                        return
                    interpreter = loader(readable, first)
            finally:
                os.close(readable)
            if interpreter is None:
                return
            found = self._open(os.path.join(self._process["cwd"], interpreter))
            if isinstance(found, str):
                needed = "interpreter" if is_script else "dynamic loader"
                self._refuse(f"its {needed} {interpreter}: {found}", missing=found != _DENIED)
                return
            if not is_script:
                os.close(found)
                return
            os.dup2(found, descriptor, inheritable=False)
            os.close(found)

    def _refuse(self, what: str, *, missing: bool) -> None:
        """Raise a `BundleError`, unless a mount may bring what was looked up."""
        if self._is_mounted_over():
            return
        kind = ProgramAbsentError if missing else ProgramNotExecutableError
        raise kind(
            f"exec: {_quoted(self._name)}: {what}",
            reason=Reason.PROGRAM_ABSENT if missing else Reason.PROGRAM_NOT_EXECUTABLE,
            hint=_HINT,
            member="$.process.args[0]",
        )

    def _is_mounted_over(self) -> bool:
        looked_up, self._places = self._places, []
        points = list(_RUNSC_MOUNTS)
        for mount in self._mounts:
            points.append(os.path.normpath(mount["destination"]))
            self._places = []
            try:
                os.close(self._walk(mount["destination"]))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
            points += self._places[-1:]
        return any(
            point in ("/", "//") or f"{os.path.normpath(place)}/".startswith(f"{point}/")
            for place in looked_up
            for point in points
        )


def _search_path(environment: Sequence[str]) -> list[str]:
    for entry in environment:
        if entry.startswith("PATH="):
            return entry.removeprefix("PATH=").split(":")
    return []


def _script_interpreter(first: bytes) -> str | None:
    """The program after `#!`; None where the file is no script."""
    if not first.startswith(b"#!"):
        return None
    line = first[2:].split(b"\n", 1)[0].strip(b" \t")
    return os.fsdecode(line.split(b" ")[0].split(b"\t")[0])


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]}…"


def _quoted(name: str) -> str:
    return '"' + _short(name).replace("\\", "\\\\").replace('"', '\\"') + '"'
