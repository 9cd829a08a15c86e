"""What an installation of gVisor is: runsc, and since 2026 its sidecars, the programs in `gvisor-bin/` beside it.

Every file of it is judged by the rules of `pin`, and stays open: what is said of it is read from that descriptor. An
installation of 2022 or 2024 is runsc alone: a set of one.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator

from engine.errors import Reason, ValidateError, hint_for
from engine.linux.files import Opened, UntrustedPathError, is_immutable_store_entry, open_trusted
from engine.linux.regular_files import Identity
from engine.runsc.binary import is_at_the_end, release_of, texts_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

#: What the file that is started is called in an installation.
RUNSC = "runsc"
#: The directory beside runsc that has its sidecars, and those that a sandbox is started with.
SIDECARS = "gvisor-bin"
SENTRY = "gvisor_sentry"
PREWARMER = "gvisor-sentry-prewarmer"
#: The Go package that starts them: its name lies among the first constants of a build, as those of the platforms do.
PACKAGE = b"gvisor.dev/gvisor/runsc/gvisorbinaries"

_ELF = b"\x7fELF"
#: Bytes to compare at a time.
_CHUNK = 1 << 18
#: The last release that is known to be its own Sentry where the whole of `SIDECARS` is missing; those from
#: release-20260914 on end with 128.
_LAST_ALONE = "release-20260817"
#: As many sidecars are judged and held open; an installation has four or five.
MAX_SIDECARS = 16
_NAME_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+-"
_MAX_NAME = 64
OWN_COPY = "install runsc from a package, or copy it where only root or you can write, owned so, mode 0755"
_WHOLE = f"install gVisor anew, runsc and {SIDECARS}/ of one release"


class PinnedFile:
    """A file that was judged. `descriptor` is open for reading, `path` is free of links; `name` as it is staged.

    `mode` are its permissions, `owner` is a uid.
    """

    def __init__(
        self, name: str, descriptor: int, path: str, identity: Identity, owner: int, mode: int
    ) -> None:
        self.name: Final = name
        self.descriptor: Final = descriptor
        self.path: Final = path
        self.identity: Final = identity
        self.owner: Final = owner
        self.mode: Final = mode


@contextlib.contextmanager
def opening(what: str, missing: type[OSError], reason: str, hint: str) -> Iterator[None]:
    """While `open_trusted` opens `what`, its errors become `ValidateError`: `missing` has that `reason`."""
    try:
        yield
    except UntrustedPathError as error:
        raise ValidateError(
            f"on the way to {what}, {error}", reason=Reason.LOOSE_CHAIN, hint=OWN_COPY
        ) from None
    except OSError as error:
        raise ValidateError(
            f"{what}: {error.strerror}",
            reason=reason if isinstance(error, missing) else Reason.FAILURE,
            hint=hint_for(error, hint),
        ) from None


def pin(name: str, opened: Opened, owners: Collection[int]) -> PinnedFile:
    """Judge the file that is `opened`, whose descriptor stays the caller's, and open it for reading.

    Trusted is a regular executable file that neither group nor world can write, of one of `owners` or an immutable Nix
    store artefact. Raises `ValidateError`.
    """
    try:
        status = os.fstat(opened.descriptor)
        _judge(name, opened, status, owners)
        # The kernel's own link from a descriptor to what it is open on: not a second look-up by name, proc(5).
        descriptor = os.open(f"/proc/self/fd/{opened.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ValidateError(
            f"{name} {opened.path!r} cannot be read: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "make it readable (mode 0755), and see that /proc is mounted"),
        ) from None
    return PinnedFile(
        name, descriptor, opened.path, Identity.of(status), status.st_uid, stat.S_IMODE(status.st_mode)
    )


def _judge(name: str, opened: Opened, status: os.stat_result, owners: Collection[int]) -> None:
    path, mode = opened.path, stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ValidateError(
            f"{name} {path!r} is not a regular file",
            reason=Reason.NOT_A_PROGRAM,
            hint="name the binary with --runsc PATH" if name == RUNSC else _WHOLE,
        )
    if mode & 0o022:
        raise ValidateError(
            f"{name} {path!r} can be written by group or world (mode {mode:04o})",
            reason=Reason.LOOSE_MODE,
            hint=f"chmod go-w {path!r}, after checking that it is what was installed",
        )
    if not mode & 0o111:
        raise ValidateError(
            f"{name} {path!r} is not executable (mode {mode:04o})",
            reason=Reason.NOT_A_PROGRAM,
            hint=f"chmod 0755 {path!r}",
        )
    if status.st_uid not in owners and not _is_immutable_artefact(opened, status):
        wanted = ", ".join(f"uid {uid}" for uid in owners)
        raise ValidateError(
            f"{name} {path!r} is owned by uid {status.st_uid} (expected {wanted} or an immutable /nix/store artefact)",
            reason=Reason.FOREIGN_OWNER,
            hint=OWN_COPY,
        )


def _is_immutable_artefact(opened: Opened, status: os.stat_result) -> bool:
    """A Nix store file that nobody has the mode to write, in a directory that nobody has either."""
    return (
        is_immutable_store_entry(opened.path, status)
        and opened.parent is not None
        and is_immutable_store_entry(os.path.dirname(opened.path), opened.parent)
    )


def require_elf(file: PinnedFile) -> None:
    """Raise `ValidateError` unless the file is an ELF file, elf(5), by its first bytes."""
    if os.pread(file.descriptor, len(_ELF), 0) != _ELF:
        raise ValidateError(
            f"{file.name} {file.path!r} is not an ELF binary",
            reason=Reason.NOT_A_PROGRAM,
            hint="name the runsc binary with --runsc PATH" if file.name == RUNSC else _WHOLE,
        )


def _is_there(path: str) -> bool:
    """Whether there is anything at `path`. Raises `OSError` where that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def pin_sidecars(
    runsc: PinnedFile, owners: Collection[int], *, has_package: bool
) -> tuple[tuple[PinnedFile, ...], str | None] | None:
    """The sidecars of `runsc`, in the order of their names, and the release that all of it is of, if that is told.

    They are looked for where runsc itself does: beside its path without links, whatever lies beside a link to it.
    `has_package` says that `PACKAGE` is among its first constants. None for a build that starts no sidecars, whatever
    lies beside it, and for the last one that can be without. Raises `ValidateError`: where a sidecar is not to be
    trusted, one that is needed is missing, or they are of different releases; nothing stays open then.
    """
    place = os.path.join(os.path.dirname(runsc.path), SIDECARS)
    # Only a hint whether it pays to read all of a build that does not tell at once: what is opened below is judged.
    if not (has_package or _wants_sidecars(runsc, wholly=_is_there(place))):
        return None
    with contextlib.ExitStack() as undo:
        folder = _open_folder(place, owners)
        if folder is not None:
            undo.callback(os.close, folder.descriptor)
        with contextlib.ExitStack() as pinned:
            sidecars = () if folder is None else tuple(_pin_all(folder, owners, pinned))
            if not sidecars and _can_be_alone(runsc):
                return None
            _require_all(runsc, sidecars)
            _require_distinct(runsc, sidecars)
            release = _one_release(runsc, sidecars)
            pinned.pop_all()
    return sidecars, release


def _can_be_alone(runsc: PinnedFile) -> bool:
    release = release_of(runsc.descriptor, wholly=True)
    return release is not None and release[: len(_LAST_ALONE)] <= _LAST_ALONE


def _wants_sidecars(runsc: PinnedFile, *, wholly: bool) -> bool:
    """Whether this build names its Sentry; looked for in all of it only with `wholly`, which takes milliseconds."""
    name = SENTRY.encode()
    return is_at_the_end(runsc.descriptor, name) or (wholly and bool(texts_in(runsc.descriptor, [name])))


def _open_folder(place: str, owners: Collection[int]) -> Opened | None:
    """The directory at `place`, judged with all above it; None if there is none. Raises `ValidateError`."""
    with (
        opening(repr(place), NotADirectoryError, Reason.INCOMPLETE, _WHOLE),
        contextlib.suppress(FileNotFoundError),
    ):
        return open_trusted(place, owners, follow_links=True, directory=True)
    return None


def _pin_all(folder: Opened, owners: Collection[int], undo: contextlib.ExitStack) -> Iterable[PinnedFile]:
    """Every file of the open `folder`, judged; `undo` closes them."""
    try:
        parent = os.fstat(folder.descriptor)
        names = sorted(os.listdir(f"/proc/self/fd/{folder.descriptor}"))
    except OSError as error:
        raise ValidateError(
            f"{folder.path!r} cannot be read: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "make it readable (mode 0755), and see that /proc is mounted"),
        ) from None
    if len(names) > MAX_SIDECARS:
        raise ValidateError(
            f"{folder.path!r} has {len(names)} files (expected at most {MAX_SIDECARS})",
            reason=Reason.NOT_A_PROGRAM,
            hint=_WHOLE,
        )
    for name in names:
        yield _pin_one(name, folder, parent, owners, undo)


def _pin_one(
    name: str,
    folder: Opened,
    parent: os.stat_result,
    owners: Collection[int],
    undo: contextlib.ExitStack,
) -> PinnedFile:
    path = os.path.join(folder.path, name)
    if _is_half_unpacked(name):
        raise ValidateError(
            f"{path!r} is of an upgrade that is under way or was cut off",
            reason=Reason.MIXED_RELEASES,
            hint="let the upgrade finish and run again; after one that was cut off, install gVisor anew",
        )
    if not is_sidecar_name(name):
        raise ValidateError(
            f"{path!r} has a name that no program of gVisor's has", reason=Reason.NOT_A_PROGRAM, hint=_WHOLE
        )
    try:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.descriptor)
    except OSError as error:
        raise ValidateError(
            f"{path!r}: {error.strerror}",
            reason=Reason.ABSENT if isinstance(error, FileNotFoundError) else Reason.FAILURE,
            hint=hint_for(error, "let the upgrade finish and run again"),
        ) from None
    try:
        file = pin(name, Opened(descriptor, path, parent), owners)
    finally:
        os.close(descriptor)
    undo.callback(os.close, file.descriptor)
    require_elf(file)
    return file


def is_sidecar_name(name: str) -> bool:
    """Whether a file in `SIDECARS` may have this name."""
    return 0 < len(name) <= _MAX_NAME and name[0] != "." and not name.strip(_NAME_CHARACTERS)


def _is_half_unpacked(name: str) -> bool:
    """Whether a package manager has such a name for a file while it unpacks: dpkg(1), and those of RPM and Alpine."""
    return name.endswith((".dpkg-new", ".dpkg-tmp")) or ";" in name or name.startswith(".apk.")


def _require_all(runsc: PinnedFile, sidecars: Iterable[PinnedFile]) -> None:
    """Raise `ValidateError` where one that a sandbox is started with is missing."""
    there = {sidecar.name for sidecar in sidecars}
    if SENTRY not in there:
        raise _incomplete(runsc, SENTRY)
    # Not every build has a prewarmer; whether this one has is asked only where there is none.
    if PREWARMER not in there and texts_in(runsc.descriptor, [PREWARMER.encode()]):
        raise _incomplete(runsc, PREWARMER)


def _require_distinct(runsc: PinnedFile, sidecars: Iterable[PinnedFile]) -> None:
    """Raise `ValidateError` where runsc, its Sentry and its prewarmer are not three programs but one under two names.

    runsc ends with 128 where its Sentry is a link to itself, or a copy.
    """
    seen = [runsc]
    for sidecar in sidecars:
        if sidecar.name not in (SENTRY, PREWARMER):
            continue
        for other in seen:
            if _are_one(other, sidecar):
                raise ValidateError(
                    f"{sidecar.path!r} is the same program as {other.path!r}",
                    reason=Reason.INCOMPLETE,
                    hint=_WHOLE,
                )
        seen.append(sidecar)


def _are_one(one: PinnedFile, other: PinnedFile) -> bool:
    """Whether both are one file, or have the same bytes."""
    if one.identity.size != other.identity.size:
        return False
    if (one.identity.device, one.identity.inode) == (other.identity.device, other.identity.inode):
        return True
    for offset in range(0, one.identity.size, _CHUNK):
        if os.pread(one.descriptor, _CHUNK, offset) != os.pread(other.descriptor, _CHUNK, offset):
            return False
    return True


def _incomplete(runsc: PinnedFile, name: str) -> ValidateError:
    return ValidateError(
        f"runsc {runsc.path!r} starts {SIDECARS}/{name} beside it, which is missing",
        reason=Reason.INCOMPLETE,
        hint=_WHOLE,
    )


def _one_release(runsc: PinnedFile, sidecars: Iterable[PinnedFile]) -> str | None:
    """The release that runsc and its Sentry are of, and every other that tells it at once.

    The prewarmer does not. Raises `ValidateError` where one is of another.
    """
    release = release_of(runsc.descriptor, wholly=True)
    for sidecar in sidecars:
        is_sentry = sidecar.name == SENTRY
        its = release_of(sidecar.descriptor, wholly=is_sentry)
        if its != release and (is_sentry or its is not None):
            raise ValidateError(
                f"{sidecar.path!r} is of {its or 'no release'}, and runsc {runsc.path!r} of {release or 'none'}",
                reason=Reason.MIXED_RELEASES,
                hint=f"let the upgrade finish, or {_WHOLE}",
            )
    return release
