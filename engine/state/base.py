"""The artifact base: under which directory everything of a user's containers is, made or adopted by descriptor."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping

from engine.linux.files import (
    Opened,
    PrivateDirectory,
    UntrustedPathError,
    make_private_directory,
    open_private_directory,
    open_trusted,
)
from engine.linux.namespaces import read_uid_map, root_maps_to_unprivileged, unmapped_uid

_BASE_NAME = "nucleus-gvisor"
_BASE_VARIABLES = ("ENGINE_ARTIFACT_BASE", "NUCLEUS_GVISOR_ARTIFACT_BASE")


def artifact_base(environment: Mapping[str, str], *, user: int, root_is_mapped: bool, directory: str) -> str:
    """The absolute path under which every container of `user` (an effective uid) has its directory.

    `root_is_mapped`: uid 0 of this user namespace is an ordinary user of the host. `directory`: the current
    one, against which a relative choice is taken. The variables come first, then `XDG_RUNTIME_DIR` (only when
    absolute, as the XDG base directory specification says) for everyone but the host's root.
    """
    for variable in _BASE_VARIABLES:
        if chosen := environment.get(variable):
            return os.path.join(directory, chosen)
    if user != 0 or root_is_mapped:
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        if runtime.startswith("/"):
            return os.path.join(runtime, _BASE_NAME)
    if user == 0:
        return f"/run/{_BASE_NAME}"
    temporary = os.path.join(directory, environment.get("TMPDIR") or "/tmp")  # noqa: S108
    return os.path.join(temporary, f"{_BASE_NAME}-{user}")


def chosen_base(environment: Mapping[str, str]) -> str:
    """The artifact base of this very process. Raises `FileNotFoundError` where it takes a directory that is gone."""
    base = artifact_base(
        environment,
        user=os.geteuid(),
        root_is_mapped=root_maps_to_unprivileged(read_uid_map()),
        directory="",
    )
    if base.startswith("/"):
        return base
    try:
        return os.path.join(os.getcwd(), base)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "the current directory is gone", base) from None


def open_base(path: str) -> PrivateDirectory:
    """Make or adopt the artifact base at `path`, every directory above which must exist.

    One that exists must be private already: a base that was named by mistake is not changed. Raises
    `UntrustedPathError` for a link or `..` on the way or a directory that others can rewrite, and `OSError`.
    As the host's root every directory must be root's; otherwise root's or the effective user's.
    """
    parent, name = _open_parent(path)
    try:
        return make_private_directory(parent.descriptor, parent.path, name, tighten=False)
    finally:
        os.close(parent.descriptor)


def open_existing_base(path: str) -> PrivateDirectory | None:
    """As `open_base`, but nothing is made or changed: None where there is no base."""
    try:
        parent, name = _open_parent(path)
    except FileNotFoundError:
        return None
    try:
        base = open_private_directory(parent.descriptor, parent.path, name)
    except FileNotFoundError:
        return None
    finally:
        os.close(parent.descriptor)
    try:
        if (mode := stat.S_IMODE(os.fstat(base.descriptor).st_mode)) != 0o700:
            raise UntrustedPathError(path, f"has permissions {mode:04o} (expected 0700)")
    except BaseException:
        base.close()
        raise
    return base


def base_changed(base: PrivateDirectory) -> str | None:
    """What has become of the base since it was opened, in one phrase; None when its path still names it."""
    try:
        parent, _ = _open_parent(base.path)
    except (OSError, UntrustedPathError) as error:
        return f"{base.path!r} can no longer be reached safely ({error})"
    try:
        return base.changed(parent.descriptor)
    finally:
        os.close(parent.descriptor)


def reach_base(path: str, *, make: bool) -> str:
    """The path of the base at `path` without links; with `make` the directories above it that are missing are made.

    A link on the way is followed where nobody untrusted could have put it there, as `/var/run` is. Raises
    `UntrustedPathError` and `OSError` as `open_base`.
    """
    parent_path, name = os.path.split(path.rstrip("/"))
    owners = {0, os.geteuid()}
    missing: list[str] = []
    while True:
        try:
            parent = open_trusted(
                parent_path, owners, follow_links=True, unmapped=unmapped_uid(), directory=bool(missing)
            )
            break
        except FileNotFoundError:
            if not make:
                raise
            parent_path, last = os.path.split(parent_path)
            missing.append(last)
    try:
        while missing:
            where = os.path.join(parent.path, missing[-1])
            with contextlib.suppress(FileExistsError):
                os.mkdir(missing[-1], 0o711, dir_fd=parent.descriptor)
            os.close(parent.descriptor)
            parent = open_trusted(where, owners, follow_links=False, unmapped=unmapped_uid(), directory=True)
            missing.pop()
        return os.path.join(parent.path, name)
    finally:
        os.close(parent.descriptor)


def _open_parent(path: str) -> tuple[Opened, str]:
    """The judged directory that holds the base, and the base's name in it."""
    if "\0" in path:
        raise UntrustedPathError(path, "has a NUL character")
    parent_path, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise UntrustedPathError(path, "does not end in the name of a directory")
    owners = {0, os.geteuid()}
    return open_trusted(
        parent_path, owners, follow_links=False, unmapped=unmapped_uid(), directory=True
    ), name
