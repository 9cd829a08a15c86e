"""Where staged programs lie: apart from the state, so that these may be on a file system where nothing is executed.

    <place>/stage-<boot>-<random>/runsc   what one container runs
                                  state   a link that names the container's directory
    <place>/staged/                       the copies that containers share (`store`)
    <base>/<component>/programs           a link that names the container's stage directory

State is small and of this boot, and /run is mounted noexec by initramfs-tools; programs are large and can be executed
here. A base that was chosen has them itself, in each container's directory, where it can be executed.

The links are only read, and what they name is opened by descriptor and judged. A container names its stage directory
before that is made, so what a killed run leaves is found through its state. What a reboot, or a logout that removes
/run/user/UID, leaves without state is for `collect`.
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
from engine.state.base import NAME, default_base, open_base, open_existing_base, ordinary_user, reach_base
from engine.state.container import PROGRAMS

PROGRAM = "runsc"
_STATE = "state"
_PLACE = "programs"
_STAGE = r"stage-([0-9a-f]{32})-[0-9a-f]{16}"


def default_place() -> str | None:
    """Where the programs of this user's containers lie, and outlive a boot; None for a user without a home."""
    user = ordinary_user()
    if user is None:
        return f"/var/lib/{NAME}/{_PLACE}"
    import pwd  # by ordinary users alone

    try:
        home = pwd.getpwuid(user).pw_dir
    except KeyError:
        return None
    return os.path.join(home, ".local/share", NAME, _PLACE) if home.startswith("/") and home != "/" else None


def noexec_hint() -> str:
    """What helps where programs can be executed in no place."""
    return (
        f"let {default_place() or 'a home directory'} be on one where programs can be executed, or choose a base on "
        "such a one: ENGINE_ARTIFACT_BASE=DIR for engine run, --root DIR for engine-oci"
    )


def is_executable(directory: int) -> bool:
    """Whether programs can be executed on the file system that has the open `directory`. Raises `OSError`."""
    return not os.fstatvfs(directory).f_flag & os.ST_NOEXEC


def open_place(base: PrivateDirectory) -> PrivateDirectory | None:
    """Make or adopt the place for the programs of containers under `base`; None where they lie in `base` itself.

    A base that was chosen has them where it can be executed; else the default place has them; and where that
    cannot be had, the base if it can be executed. Raises `UntrustedPathError` and `OSError` where nothing else is left.
    """
    can_have_them = is_executable(base.descriptor)
    if can_have_them and base.path != default_base():
        return None
    path = default_place()
    if path is None:
        return None
    try:
        place = _open(path)
    except (UntrustedPathError, OSError):
        if can_have_them:
            return None
        raise
    if is_executable(place.descriptor):
        return place
    place.close()
    return None


def _open(path: str) -> PrivateDirectory:
    try:
        return open_base(path)
    except (FileNotFoundError, UntrustedPathError):
        # Directories above it are missing, or one of them is a link that may be followed.
        return open_base(reach_base(path, make=True))


def foresee(base: str) -> str | None:
    """As `open_place` for the base at that path, which need not exist: the place's path, and nothing is made.

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
    """`path` with no link above it, where what exists of it may be relied on and written.

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
    """The name of a new stage directory, which tells the boot that it is of. Raises `OSError`."""
    return f"stage-{boot_id()}-{os.urandom(8).hex()}"


def is_of_earlier_boot(name: str) -> bool:
    """Whether a stage directory of this `name` was made before the machine was booted. Raises `OSError`."""
    found = re.fullmatch(_STAGE, name)
    return found is not None and found[1] != boot_id()


def make_stage(place: PrivateDirectory, container: PrivateDirectory, name: str) -> PrivateDirectory:
    """Make the stage directory `name` of `container` in `place`, each named by the other.

    It is locked for as long as its descriptor is open: until then nobody collects it. Raises as
    `make_private_directory`.
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
    """Take back `make_stage`, and the program. What is in its place by now is left. Raises `OSError`."""
    for inside in (PROGRAM, _STATE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(inside, dir_fd=stage.descriptor)
    if stage.is_named_in(place.descriptor):
        os.rmdir(os.path.basename(stage.path), dir_fd=place.descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PROGRAMS, dir_fd=container.descriptor)


def named(container: PrivateDirectory) -> str | None:
    """The path of the stage directory that `container` names; None where it names none.

    Raises `UntrustedPathError` and `OSError`.
    """
    path = _link(container, PROGRAMS)
    if path is None:
        return None
    if not path.startswith("/") or not re.fullmatch(_STAGE, os.path.basename(path)):
        raise UntrustedPathError(os.path.join(container.path, PROGRAMS), "names no stage directory")
    return path


def _link(directory: PrivateDirectory, name: str) -> str | None:
    """What the link `name` in `directory` says; None where there is none."""
    try:
        return os.readlink(name, dir_fd=directory.descriptor)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def opened_place(path: str) -> Iterator[PrivateDirectory | None]:
    """The place in which the stage directory `path` is, open; None where it is gone.

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
    """Whether the stage directory `name` in `place` is nobody's any more.

    Not while the container's directory that it names has it, nor while that cannot be told. One of this boot whose
    state is gone, as after a logout, may still be a live container's: so not while anybody starts a container with
    it, nor while any process executes the file, which other containers may share.
    Raises `UntrustedPathError` and `OSError`.
    """
    found = re.fullmatch(_STAGE, name)
    if found is None:
        return False
    is_earlier = found[1] != boot_id()
    with contextlib.closing(open_private_directory(place.descriptor, place.path, name)) as stage:
        state = _link(stage, _STATE)
        if state is None:
            return is_earlier  # one of this boot is being made, or was when its run was killed, whose state has it
        if not state.startswith("/") or _has(state, os.path.join(place.path, name)):
            return False
        if is_earlier:
            return True
        return lock(stage.descriptor) and not _is_executed(stage)


def is_anothers(place: PrivateDirectory, name: str, container: PrivateDirectory) -> bool:
    """Whether the stage directory `name` in `place` is that of another container than this, though this names it, too.

    Raises `UntrustedPathError` and `OSError`.
    """
    with contextlib.closing(open_private_directory(place.descriptor, place.path, name)) as stage:
        state = _link(stage, _STATE)
    return state is not None and state != container.path and _has(state, os.path.join(place.path, name))


def _has(state: str, stage: str) -> bool:
    """Whether the container's directory at `state` is there and names `stage` as its own."""
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
    from engine.linux.process import executing

    try:
        status = os.stat(PROGRAM, dir_fd=stage.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return bool(executing((status.st_dev, status.st_ino), ()))
