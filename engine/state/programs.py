"""Where staged programs lie: apart from the state, so that the state may be on a noexec file system.

    <place>/stage-<boot>-<random>/runsc         the program of one container
                                  gvisor-bin/   its sidecars, if any
                                  state         a link that names the container's directory
    <place>/staged/                       the copies that containers share (`store`)
    <base>/<component>/programs           a link that names the container's stage directory

State is small and lasts one boot; initramfs-tools mounts /run noexec. Programs are large and must be executable. With a
chosen base that is executable, they lie in each container's directory.

The links are only read; what they name is opened by descriptor and checked. A container names its stage directory
before that is made, so that leftovers of a killed run are found through its state. `collect` removes programs whose
state is gone, after a reboot or a logout that removed /run/user/UID.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from engine.linux.boot import boot_id
from engine.linux.files import (
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
    open_trusted,
)
from engine.linux.locks import lock
from engine.linux.namespaces import unmapped_uid
from engine.runsc.installation import RUNSC, SIDECARS
from engine.state.base import NAME, default_base, home_of, open_existing_base, open_or_reach, ordinary_user
from engine.state.container import PROGRAMS

PROGRAM = RUNSC
_STATE = "state"
_PLACE = "programs"
_STAGE = r"stage-([0-9a-f]{32})-[0-9a-f]{16}"


def default_place() -> str | None:
    """Where the programs of this user's containers lie by default; None for a user without a home."""
    user = ordinary_user()
    if user is None:
        return f"/var/lib/{NAME}/{_PLACE}"
    home = home_of(user)
    return None if home is None else os.path.join(home, ".local/share", NAME, _PLACE)


def noexec_hint() -> str:
    """The hint where programs cannot be executed anywhere."""
    return (
        f"let {default_place() or 'a home directory'} be on one where programs can be executed, or choose a base on "
        "such a one: ENGINE_ARTIFACT_BASE=DIR for engine run, --root DIR for engine-oci"
    )


def is_executable(directory: int) -> bool:
    """Whether the file system of the open `directory` permits execution. Raises `OSError`."""
    return not os.fstatvfs(directory).f_flag & os.ST_NOEXEC


def open_place(base: PrivateDirectory) -> PrivateDirectory | None:
    """Open or make the place for programs of containers under `base`; None if they lie in `base` itself.

    A chosen base has its own programs if it is executable; otherwise the default place has them. If that cannot be
    opened, the base has them if it is executable. Raises `UntrustedPathError` and `OSError` if no place is left.
    """
    can_have_them = is_executable(base.descriptor)
    if can_have_them and base.path != default_base():
        return None
    path = default_place()
    if path is None:
        return None
    try:
        place = open_or_reach(path)
    except (UntrustedPathError, OSError):
        if can_have_them:
            return None
        raise
    if is_executable(place.descriptor):
        return place
    place.close()
    return None


def foresee(base: str) -> str | None:
    """The path that `open_place` would choose for the base at that path, which need not exist. Makes nothing.

    Raises `UntrustedPathError` and `OSError` where `open_place` would.
    """
    can_have_them = _nearest_is_executable(base)
    if can_have_them and base != default_base():
        return None
    place = default_place()
    if place is None:
        return None
    try:
        place = _reached(place)
    except (UntrustedPathError, OSError):
        if can_have_them:
            return None
        raise
    return place if _nearest_is_executable(place) else None


def _reached(path: str) -> str:
    """`path` without links above it, checked as far as it exists: trusted, and writable.

    Raises `UntrustedPathError` and `OSError`.
    """
    path, name = os.path.split(path)
    rest = [name]
    while True:
        try:
            found = open_trusted(
                path, {0, os.geteuid()}, follow_links=True, unmapped=unmapped_uid(), directory=True
            )
            break
        except FileNotFoundError:
            path, name = os.path.split(path)
            rest.append(name)
    os.close(found.descriptor)
    reached = os.path.join(found.path, *reversed(rest))
    if (place := open_existing_base(reached)) is not None:
        place.close()
    elif not os.access(found.path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), found.path)
    return reached


def _nearest_is_executable(path: str) -> bool:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return not os.statvfs(path).f_flag & os.ST_NOEXEC


def is_stage(name: str) -> bool:
    """Whether `name` is one that `new_name` gives."""
    return re.fullmatch(_STAGE, name) is not None


def new_name() -> str:
    """The name of a new stage directory, which contains the id of this boot. Raises `OSError`."""
    return f"stage-{boot_id()}-{os.urandom(8).hex()}"


def is_of_earlier_boot(name: str) -> bool:
    """Whether a stage directory of this `name` was made in an earlier boot. Raises `OSError`."""
    found = re.fullmatch(_STAGE, name)
    return found is not None and found[1] != boot_id()


def make_stage(place: PrivateDirectory, container: PrivateDirectory, name: str) -> PrivateDirectory:
    """Make the stage directory `name` of `container` in `place`; each has a link that names the other.

    It stays locked while its descriptor is open, so that nobody collects it. Raises as `make_private_directory`.
    """
    path = os.path.join(place.path, name)
    os.symlink(path, PROGRAMS, dir_fd=container.descriptor)
    try:
        stage = make_private_directory(place.descriptor, place.path, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(PROGRAMS, dir_fd=container.descriptor)
        raise
    try:
        if not lock(stage.descriptor):
            raise FileExistsError(errno.EEXIST, "another engine has it", path)
        os.symlink(container.path, _STATE, dir_fd=stage.descriptor)
    except BaseException:
        with contextlib.closing(stage), contextlib.suppress(OSError):
            remove_stage(place, container, stage)
        raise
    return stage


def remove_stage(place: PrivateDirectory, container: PrivateDirectory, stage: PrivateDirectory) -> None:
    """Undo `make_stage`, and remove the program. Another directory in its place stays. Raises `OSError`."""
    remove_program(stage, place)
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(_STATE, dir_fd=stage.descriptor)
    if stage.is_named_in(place.descriptor):
        remove_directory(place, os.path.basename(stage.path))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PROGRAMS, dir_fd=container.descriptor)


def remove_directory(parent: PrivateDirectory, name: str) -> None:
    """Remove the directory `name` in `parent`, and what somebody else has put there. Raises `OSError`."""
    try:
        os.rmdir(name, dir_fd=parent.descriptor)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        from engine.state.trees import remove_tree  # rarely needed

        remove_tree(parent, name)


def remove_program(stage: PrivateDirectory, home: PrivateDirectory) -> None:
    """Remove runsc and its sidecars from the stage directory; `home` contains the store that they may be linked from.

    What else is in their places goes, too. Raises `OSError`.
    """
    from engine.state import store  # only if there is something to remove

    with _opened_sidecars(stage) as folder:
        names = [] if folder is None else sorted(os.listdir(folder.descriptor))
        store.unlink(home, [(stage, PROGRAM), *((folder, name) for name in names if folder is not None)])
        if folder is None or not folder.is_named_in(stage.descriptor):
            return
        remove_directory(stage, SIDECARS)


@contextlib.contextmanager
def _opened_sidecars(stage: PrivateDirectory) -> Iterator[PrivateDirectory | None]:
    """The directory of the sidecars in `stage`, open; None if there is none, or something else in its place."""
    try:
        folder = open_private_directory(stage.descriptor, stage.path, SIDECARS)
    except (FileNotFoundError, UntrustedPathError):
        yield None
        return
    with contextlib.closing(folder):
        yield folder


def named(container: PrivateDirectory) -> str | None:
    """The path of the stage directory that `container` names; None if it names none.

    Raises `UntrustedPathError` and `OSError`.
    """
    path = _link(container, PROGRAMS)
    if path is None:
        return None
    if not path.startswith("/") or not re.fullmatch(_STAGE, os.path.basename(path)):
        raise UntrustedPathError(os.path.join(container.path, PROGRAMS), "names no stage directory")
    return path


def _link(directory: PrivateDirectory, name: str) -> str | None:
    """The target of the link `name` in `directory`; None if there is none, or something else."""
    try:
        return os.readlink(name, dir_fd=directory.descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


@contextlib.contextmanager
def opened_place(path: str) -> Iterator[PrivateDirectory | None]:
    """The place that contains the stage directory `path`, open; None if it is gone.

    Raises `UntrustedPathError` and `OSError`.
    """
    place = open_existing_base(os.path.dirname(path))
    try:
        yield place
    finally:
        if place is not None:
            place.close()


@contextlib.contextmanager
def opened_stage(path: str) -> Iterator[PrivateDirectory]:
    """The stage directory at `path`, open. Raises `UntrustedPathError`, `FileNotFoundError` and other `OSError`s."""
    with opened_place(path) as place:
        if place is None:
            raise FileNotFoundError(2, os.strerror(2), path)
        with contextlib.closing(
            open_private_directory(place.descriptor, place.path, os.path.basename(path))
        ) as stage:
            yield stage


def may_go(place: PrivateDirectory, name: str) -> bool:
    """Whether nobody uses the stage directory `name` in `place`.

    It is in use while the container's directory that it names also names it, or while that is unknown. If that
    directory is gone in this boot, as after a logout, the container may still live: then it is in use while anybody
    starts a container with it, or any process executes a file of it, which containers may share. Raises
    `UntrustedPathError` and `OSError`.
    """
    found = re.fullmatch(_STAGE, name)
    if found is None:
        return False
    is_earlier = found[1] != boot_id()
    with contextlib.closing(open_private_directory(place.descriptor, place.path, name)) as stage:
        state = _link(stage, _STATE)
        if state is None:
            return is_earlier  # in this boot: it is being made, or a killed run's state names it
        if not state.startswith("/") or _has(state, os.path.join(place.path, name)):
            return False
        if is_earlier:
            return True
        return lock(stage.descriptor) and not _is_executed(stage)


def is_anothers(place: PrivateDirectory, name: str, container: PrivateDirectory) -> bool:
    """Whether the stage directory `name` in `place` belongs to another container, although `container` names it, too.

    Raises `UntrustedPathError` and `OSError`.
    """
    with contextlib.closing(open_private_directory(place.descriptor, place.path, name)) as stage:
        state = _link(stage, _STATE)
    return state is not None and state != container.path and _has(state, os.path.join(place.path, name))


def _has(state: str, stage: str) -> bool:
    """Whether the container's directory at `state` exists and names `stage` as its own."""
    base = open_existing_base(os.path.dirname(state))
    if base is None:
        return False
    with contextlib.closing(base):
        try:
            container = open_private_directory(base.descriptor, base.path, os.path.basename(state))
        except FileNotFoundError:
            return False
        with contextlib.closing(container):
            return _link(container, PROGRAMS) == stage


def _is_executed(stage: PrivateDirectory) -> bool:
    """Whether any process executes runsc or one of its sidecars: the sandbox executes another file than the gofer."""
    from engine.linux.process import executing

    files = staged_files(stage)
    return bool(files and executing(files, ()))


def staged_files(stage: PrivateDirectory) -> set[tuple[int, int]]:
    """Device and inode of runsc and of each sidecar in the stage directory. Raises `OSError`."""
    named = [(stage, PROGRAM)]
    files = set()
    with _opened_sidecars(stage) as folder:
        if folder is not None:
            named += [(folder, name) for name in os.listdir(folder.descriptor)]
        for directory, name in named:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
                files.add((status.st_dev, status.st_ino))
    return files
