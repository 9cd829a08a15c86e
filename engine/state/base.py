"""The artifact base: the directory with the state of a user's containers, opened by descriptor."""

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
from engine.linux.namespaces import outside_uid, read_uid_map, unmapped_uid

NAME = "gvisor-engine"
VARIABLE = "ENGINE_ARTIFACT_BASE"


def ordinary_user() -> int | None:
    """The uid, outside of this user namespace, of the ordinary user that this process acts for; None for root.

    Root has uid 0 and owns /run, also in a system container. In a user namespace of an ordinary user, such as rootless
    podman's, somebody else owns /run. Raises `OSError` where there is no /run.
    """
    user = os.geteuid()
    if user == 0 and os.stat("/run").st_uid == 0:
        return None
    return outside_uid(read_uid_map(), user)


def default_base() -> str:
    """Where the state of this user's containers is by default. It depends on the uid alone, not on the environment.

    A manager may give its environment to one verb and not to the next, as podman does with `create` and `start`.
    """
    user = ordinary_user()
    if user is None:
        return f"/run/{NAME}"
    return default_bases_of(user)[0]


def default_bases_of(user: int) -> tuple[str, str]:
    """Both possible default bases of an ordinary `user`, the one to use now first.

    /run/user/UID exists from the first login to the last logout, pam_systemd(8), or always with `loginctl
    enable-linger`.
    """
    session, otherwise = f"/run/user/{user}", f"/tmp/{NAME}-{user}"  # noqa: S108 (private, and judged when opened)
    base = f"{session}/{NAME}"
    try:
        status = os.lstat(session)
    except OSError:
        return otherwise, base
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return (base, otherwise) if is_own else (otherwise, base)


def chosen_base(environment: Mapping[str, str]) -> str:
    """The absolute path of the artifact base: `ENGINE_ARTIFACT_BASE` if set, else the default.

    Raises `OSError`; `FileNotFoundError` where the path is relative and the current directory is gone.
    """
    base = environment.get(VARIABLE) or default_base()
    if base.startswith("/"):
        return base
    try:
        return os.path.join(os.getcwd(), base)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "the current directory is gone", base) from None


def open_base(path: str) -> PrivateDirectory:
    """Open the artifact base at `path`, or make it; its parent directory must exist.

    A directory that exists must be private already: one named by mistake is not changed. Raises `OSError`, and
    `UntrustedPathError` for a link, `..` or a directory that others can rewrite. All directories must be owned by root
    or the effective user.
    """
    parent, name = _open_parent(path)
    try:
        return make_private_directory(parent.descriptor, parent.path, name, tighten=False)
    finally:
        os.close(parent.descriptor)


def open_existing_base(path: str) -> PrivateDirectory | None:
    """As `open_base`, but makes and changes nothing: None where there is no base."""
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
    """How the base has changed since it was opened, in one phrase; None if its path still names it."""
    try:
        parent, _ = _open_parent(base.path)
    except (OSError, UntrustedPathError) as error:
        return f"{base.path!r} can no longer be reached safely ({error})"
    try:
        return base.changed(parent.descriptor)
    finally:
        os.close(parent.descriptor)


def reach_base(path: str, *, make: bool) -> str:
    """The path of the base at `path` without links; with `make`, missing directories above it are made.

    Follows a link only if nobody untrusted could have made it: /var/run, for example. Raises as `open_base`.
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


def home_of(user: int) -> str | None:
    """The home directory of an ordinary user, passwd(5), whatever the environment; None without one."""
    import pwd  # only for ordinary users

    try:
        home = pwd.getpwuid(user).pw_dir
    except KeyError:
        return None
    return home if home.startswith("/") and home != "/" else None


def open_or_reach(path: str) -> PrivateDirectory:
    """As `open_base`, for a path whose parents may be missing, or links that may be followed. Raises as it."""
    try:
        return open_base(path)
    except (FileNotFoundError, UntrustedPathError):
        return open_base(reach_base(path, make=True))


def _open_parent(path: str) -> tuple[Opened, str]:
    """The directory that contains the base, checked and open, and the base's name in it."""
    if "\0" in path:
        raise UntrustedPathError(path, "has a NUL character")
    parent_path, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise UntrustedPathError(path, "does not end in the name of a directory")
    owners = {0, os.geteuid()}
    return open_trusted(
        parent_path, owners, follow_links=False, unmapped=unmapped_uid(), directory=True
    ), name
