"""What runsc leaves of a container that it did not delete itself, removed without runsc.

The engine executes nothing for this: no copy of runsc, which another file may have replaced by now, and no hook. Its
own hands do what `runsc delete --force` does for a container without processes: they remove

- runsc's state file and lock,
- the file in each writable tree of the host that holds what the container wrote (`--overlay2=root:self`),
- the sandbox's control socket, which lies elsewhere if the path of runsc's root is too long for a socket, unix(7),
- the cgroups that runsc made, where the list of them is lost (`engine.state.cgroups`) with a damaged record.

Observed in runsc of 2022-12 to 2026-08: runsc/container/container.go (Destroy), runsc/sandbox/sandbox.go (destroy).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Iterator

from engine.linux.files import PrivateDirectory, UntrustedPathError
from engine.linux.regular_files import read_own
from engine.state import cgroups
from engine.state.container import RUNTIME
from engine.state.record import MAX_SIZE, Record
from engine.state.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

_ID = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_STATE_FILE = re.compile(rf"({_ID})_sandbox:({_ID})\.state", re.ASCII)
#: In the root of a container, and in the source of a mount: named for the sandbox.
_FILESTORE = ".gvisor.filestore."


def remove(root: PrivateDirectory, name: str) -> None:
    """Remove runsc's files about the container with the state file `name` in `root`, and what that file names.

    None of its processes lives. A file that cannot be read is removed all the same: what it named stays then. Raises
    `OSError`, after all else was removed, for a tree that cannot be written, and a cgroup that is in use.
    """
    failed: list[OSError] = []
    match = _STATE_FILE.fullmatch(name)
    if match is not None:
        container, sandbox = match.groups()
        said = _read(root, name)
        for directory in _trees(said):
            try:
                _remove_filestore(directory, _FILESTORE + sandbox)
            except OSError as error:
                failed.append(OSError(error.errno, error.strerror, directory))
        if container == sandbox:
            _remove_socket(said, f"runsc-{sandbox}.sock")
        if left := cgroups.in_use(cgroups.remove(_cgroups(said, is_whole=container == sandbox))):
            failed.append(OSError(errno.EBUSY, "a cgroup of the container remains", left[0]))
    for each in (name, name.removesuffix(".state") + ".lock"):
        remove_tree(root, each)
    if failed:
        raise failed[0]


def remove_member(base: PrivateDirectory, container: PrivateDirectory, noted: Record) -> None:
    """Remove what runsc left of the pod's member in its sandbox's root.

    If the sandbox lives, the copy of runsc that the record names deletes the member, so that the sandbox forgets its
    id. Another file in the place of that copy is not executed; then the sandbox has the id until its own end. Raises
    `OSError`.
    """
    from engine.state import processes, recorded, status

    with contextlib.closing(status.open_state_root(base, container, noted)) as root:
        processes.forget_members(root, noted)
        if noted.program is not None and _sandbox_lives(root, noted.state_file):
            program = recorded.open_recorded_to_clean_up(container, noted.program)
            if program is not None:
                from engine.runsc.command import delete

                try:
                    delete(program, root.path, os.path.join(root.path, RUNTIME), noted.id)
                finally:
                    os.close(program)
        remove(root, noted.state_file)


def _sandbox_lives(root: PrivateDirectory, name: str) -> bool:
    """Whether the state file names the sandbox's process, after those that are not its own were removed from it."""
    sandbox = _read(root, name).get("sandbox")
    return isinstance(sandbox, dict) and bool(sandbox.get("pid"))


def _read(root: PrivateDirectory, name: str) -> dict[str, Any]:
    """What the state file says; nothing if it is none of ours, too large, damaged or gone. Raises `OSError`."""
    try:
        said = json.loads(read_own(root, name, MAX_SIZE))
    except (FileNotFoundError, UntrustedPathError, ValueError, RecursionError):
        return {}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {}
        raise
    return said if isinstance(said, dict) else {}


def _trees(said: dict[str, Any]) -> Iterator[str]:
    """The directories of the host in which runsc may have made a filestore: the root, and what is mounted."""
    spec = said.get("spec")
    if not isinstance(spec, dict):
        return
    root, mounts = spec.get("root"), spec.get("mounts")
    candidates = [root.get("path")] if isinstance(root, dict) else []
    if isinstance(mounts, list):
        candidates += [mount.get("source") for mount in mounts if isinstance(mount, dict)]
    for path in candidates:
        if _is_path(path):
            yield path


def _is_path(value: Any) -> TypeGuard[str]:
    """Whether it is an absolute path that a system call takes."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _remove_filestore(path: str, name: str) -> None:
    """Remove the regular file `name` in the directory at `path`, which may be gone. Raises `OSError`."""
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)


def _cgroups(said: dict[str, Any], *, is_whole: bool) -> list[str]:
    """The cgroups that runsc made in this boot, the deepest first; `is_whole`: the sandbox's, too."""
    if not _is_of_this_boot(said):
        return []
    sandbox = said.get("sandbox")
    found: set[str] = set()
    for given in (
        said.get("compatCgroup"),
        sandbox.get("cgroup") if is_whole and isinstance(sandbox, dict) else None,
    ):
        if isinstance(given, dict):
            found.update(_of_version_1(given.get("cgroupv1")), _of_version_2(given.get("cgroupv2")))
    inside = {
        path for path in map(os.path.normpath, filter(_is_path, found)) if path.startswith(f"{cgroups.TOP}/")
    }
    return sorted(inside, key=len, reverse=True)


def _of_version_1(given: Any) -> Iterator[str]:
    if not isinstance(given, dict) or not isinstance(given.get("own"), dict):
        return
    name, parents = given.get("name"), given.get("parents")
    if not isinstance(name, str) or not name.strip("/"):  # it would be the parent itself
        return
    for controller, is_own in given["own"].items():
        parent = parents.get(controller, "") if isinstance(parents, dict) else ""
        if is_own:
            yield f"{cgroups.TOP}/{controller}/{parent}/{name}"


def _of_version_2(given: Any) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(given.get("own"), list):
        yield from filter(lambda path: isinstance(path, str), given["own"])


def _is_of_this_boot(said: dict[str, Any]) -> bool:
    """Whether the container was created in this boot: no cgroup outlives it, and another may have the name."""
    import datetime

    try:
        created = datetime.datetime.fromisoformat(str(said.get("createdAt"))).timestamp()
    except ValueError:
        return False
    return created > time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _remove_socket(said: dict[str, Any], name: str) -> None:
    """Remove the sandbox's control socket, if it has this `name` and is ours. Raises `OSError`."""
    sandbox = said.get("sandbox")
    path = sandbox.get("controlSocketPath") if isinstance(sandbox, dict) else None
    if not _is_path(path) or os.path.basename(path) != name:
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        status = os.stat(path, follow_symlinks=False)
        if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid():
            os.unlink(path)
