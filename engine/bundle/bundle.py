"""Open an OCI bundle once, validate what was opened, and check it again right before the hand-off.

config.json is read once: runsc is given a copy of these bytes (`Bundle.given`). It takes the root file system by path:
`Bundle.changed` checks that the paths still lead to the directories that were validated. The open descriptors keep
their inodes in use, so no new directory can get the same inode numbers.

Sources: OCI runtime specification, bundle.md and config.md (Root); openat(2), openat2(2), symlink(7).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from types import TracebackType

from engine.bundle import oci_config
from engine.bundle.given import given_config
from engine.digest import sha256
from engine.errors import BundleError, Reason
from engine.linux.files import UntrustedPathError, distrust, open_trusted
from engine.linux.namespaces import unmapped_uid
from engine.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, open_in_root, openat2
from engine.linux.regular_files import read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, Self

    from engine.bundle.given import GivenConfig
    from engine.bundle.grants import Grant, Source
    from engine.options import RunOptions

CONFIG_NAME = "config.json"
#: Bytes: enough for some 100,000 mounts.
MAX_CONFIG_SIZE = 16 * 1024 * 1024
#: Bytes of a program that are read: its header, and what its segments are.
FIRST_BYTES = 4096
#: e_machine by uname(2)'s machine: those that gVisor is built for.
_MACHINES = {"x86_64": 62, "aarch64": 183}

#: Device and inode numbers, inode(7).
Identity = tuple[int, int]

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Bundle:
    """A validated bundle. Close it exactly once.

    `path`: absolute, with `..` and `.` removed as text and links left in. `data`: config.json's bytes, and `digest`
    their SHA-256, in hex. `rootfs`: `root.path`, absolute. `given`: what runsc is given. `hints`: the annotations that
    runsc reads, by name. `grants`: what of it deserves a word. `sources`: what its bind mounts come from, by number.
    """

    def __init__(
        self,
        path: str,
        directory: int,
        identity: Identity,
        config: dict[str, Any],
        data: bytes,
        digest: str,
        rootfs: str,
        rootfs_directory: int,
        rootfs_identity: Identity,
        grants: tuple[Grant, ...] = (),
        sources: Mapping[int, Source] | None = None,
    ) -> None:
        self.path: Final = path
        self.directory: Final = directory
        self.identity: Final = identity
        self.config: Final = config
        self.data: Final = data
        self.digest: Final = digest
        self.given: GivenConfig = given_config(data, config, path, digest)
        self.rootfs: Final = rootfs
        self.rootfs_directory: Final = rootfs_directory
        self.rootfs_identity: Final = rootfs_identity
        self.grants: Final = grants
        self.sources: Final = sources or {}
        self.hints: Final = oci_config.hints(config)

    def changed(self) -> str | None:
        """What its path and its root's lead to now, if not to the same as when it was opened; else None."""
        try:
            named = _open_bundle_directory(self.path)
            try:
                if _identity(named) != self.identity:
                    return f"{self.path!r} names another directory"
                rootfs = _open_rootfs(named, self.path, self.config["root"]["path"])
                try:
                    if _identity(rootfs) != self.rootfs_identity:
                        return f"{self.rootfs!r} names another directory"
                finally:
                    os.close(rootfs)
            finally:
                os.close(named)
        except BundleError as error:
            return error.what
        return None

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.rootfs_directory)
        os.close(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: str, *, require_strict: bool = False) -> Bundle:
    """Open and validate the bundle in the directory `path`.

    config.json must be a regular file, not a link, of at most `MAX_CONFIG_SIZE` bytes, that `oci_config.parse` accepts.
    A relative `root.path` without `..` must be a directory beneath the bundle, even through links; any other must be a
    directory. No other user may be able to change a hook of the host, and with `require_strict` the directory and
    config.json; nor may anything else be granted then that deserves a word. Raises `BundleError`.
    """
    if not path or "\0" in path:
        raise BundleError(
            "the bundle's path is empty or contains a NUL character",
            reason=Reason.BUNDLE_ABSENT,
            hint="give the directory with config.json",
        )
    try:
        absolute = os.path.abspath(path)
    except FileNotFoundError:
        raise BundleError(
            f"the bundle {path!r} cannot be found: the current directory was removed",
            reason=Reason.BUNDLE_ABSENT,
            hint="give its absolute path",
        ) from None
    directory = _open_bundle_directory(absolute)
    held = [directory]
    try:
        data = _read_config(directory)
        config = oci_config.parse(data)
        if config.get("hooks"):
            from engine.bundle.hooks import require_trusted

            require_trusted(config)
        identity = _identity(directory)
        held.append(rootfs := _open_rootfs(directory, absolute, root_path := config["root"]["path"]))
        rootfs_identity = _identity(rootfs)
        writable = _find_writable(absolute, directory)
        root = os.path.normpath(os.path.join(absolute, root_path))
        has_bundle = rootfs_identity == identity or f"{absolute}/".startswith(f"{root.rstrip('/')}/")
        if has_bundle and not config["root"].get("readonly"):
            writable.setdefault("writable_config", "the container's root, which it may write, has the bundle")
        sources, grants = _find_grants(config, absolute, writable, require_strict=require_strict)
        return Bundle(
            path=absolute,
            directory=directory,
            identity=identity,
            config=config,
            data=data,
            digest=sha256(data),
            rootfs=root,
            rootfs_directory=rootfs,
            rootfs_identity=rootfs_identity,
            grants=grants,
            sources=sources,
        )
    except BaseException:
        for descriptor in held:
            os.close(descriptor)
        raise


def _find_grants(
    config: dict[str, Any], path: str, writable: Mapping[str, str], *, require_strict: bool
) -> tuple[dict[int, Source], tuple[Grant, ...]]:
    if writable and require_strict:
        raise BundleError(
            f"others can change the bundle: {', '.join(writable.values())}",
            reason=Reason.BUNDLE_WRITABLE,
            hint="keep it where only root or you can write, or leave out --require-strict-bundle",
        )
    if not (writable or oci_config.may_grant(config)):
        return {}, ()
    from engine.bundle.grants import find, sources_of

    sources = sources_of(config, path)
    grants = find(config, sources, writable)
    if grants and require_strict:
        raise BundleError(
            f"config.json: {'; '.join(map(str, grants))}",
            reason=Reason.GRANTED,
            hint="take it out of config.json, or leave out --require-strict-bundle",
        )
    return sources, grants


def _find_writable(path: str, directory: int) -> dict[str, str]:
    """What users other than root and the caller can change, by its code in `engine.bundle.grants`, and why."""
    owners = {0, os.geteuid()}
    found = {}
    if why := _why_writable(path, directory, owners):
        found["writable_bundle"] = why
    try:
        status = os.stat(CONFIG_NAME, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        found["writable_config"] = f"{CONFIG_NAME}: {error.strerror}"
        return found
    if status.st_mode & 0o022:
        found["writable_config"] = f"{CONFIG_NAME} has mode {stat.S_IMODE(status.st_mode):04o}"
    elif why := distrust(os.path.join(path, CONFIG_NAME), status, owners):
        found["writable_config"] = f"{CONFIG_NAME} {why}"
    return found


def _why_writable(path: str, directory: int, owners: set[int]) -> str | None:
    """Why others can change the `directory` that was opened at `path`, or the way to it; None if they cannot."""
    try:
        try:
            opened = open_trusted(path, owners, follow_links=True, directory=True)
        except UntrustedPathError:
            if (unmapped := unmapped_uid()) is None:
                raise
            opened = open_trusted(path, owners, follow_links=True, unmapped=unmapped, directory=True)
    except UntrustedPathError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path!r}: {error.strerror}"
    try:
        is_it = _identity(opened.descriptor) == _identity(directory)
    finally:
        os.close(opened.descriptor)
    return None if is_it else f"{path!r} is reached by a link of /proc"


def _identity(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _open_bundle_directory(path: str) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        raise BundleError(
            f"cannot open the bundle {path!r}: {error.strerror}",
            reason=Reason.BUNDLE_ABSENT,
            hint="give a directory with config.json",
        ) from None


def _read_config(directory: int) -> bytes:
    """The bytes of config.json in `directory`."""
    try:
        return read_regular(CONFIG_NAME, directory, CONFIG_NAME, MAX_CONFIG_SIZE)
    except UntrustedPathError as error:
        what, reason, hint = (
            f"{CONFIG_NAME} {error.why}",
            Reason.BUNDLE_UNSAFE,
            "replace it by a regular file",
        )
    except FileNotFoundError:
        what, reason = f"the bundle has no {CONFIG_NAME}", Reason.BUNDLE_ABSENT
        hint = "write one; `runsc spec` makes a template"
    except OSError as error:
        what, reason, hint = (
            f"cannot read {CONFIG_NAME}: {error.strerror}",
            Reason.FAILURE,
            "make it readable",
        )
        if error.errno == errno.EFBIG:
            reason, hint = Reason.TOO_LARGE, "make it smaller"
    raise BundleError(what, reason=reason, hint=hint)


def _open_rootfs(directory: int, bundle: str, path: str) -> int:
    """Open the root file system at `root.path` of the bundle open on `directory`, at `bundle`, with O_PATH."""
    where = "config.json: $.root.path"
    try:
        descriptor = _open_root_path(directory, bundle, path)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise BundleError(
                f"{where} is {path!r}: opening it safely needs openat2(2), which this kernel lacks",
                reason=Reason.UNAVAILABLE,
                hint="use Linux 5.6 or later, or one plain name such as 'rootfs'",
            ) from None
        what, hint = _ROOT_FAILURES.get(
            error.errno or 0, (f"cannot be opened: {error.strerror}", "give a directory that can be opened")
        )
        raise BundleError(
            f"{where} is {path!r}, which {what}",
            reason=Reason.ROOTFS_ABSENT
            if isinstance(error, FileNotFoundError | NotADirectoryError)
            else Reason.BUNDLE_UNSAFE
            if error.errno in _ROOT_FAILURES
            else Reason.FAILURE,
            hint=hint,
        ) from None
    return descriptor


_ROOT_FAILURES = {
    errno.ENOENT: ("does not exist", "create it, or give the directory of the root file system"),
    errno.ENOTDIR: ("is not a directory", "give the directory of the root file system"),
    errno.EXDEV: ("leads out of the bundle by a symbolic link", "move it inside, or give its absolute path"),
    errno.ELOOP: ("contains a link of /proc or too many links", "give the path without them"),
    errno.ENOTUNIQ: ("has '..' behind a symbolic link", "give its absolute path"),
}


def _open_root_path(directory: int, bundle: str, path: str) -> int:
    if ".." in path.split("/"):
        from engine.bundle.root_above import open_root

        return open_root(directory, bundle, path)
    if "/" not in path:
        # For a single component O_NOFOLLOW is enough; a link fails with ENOTDIR and takes the openat2(2) path.
        try:
            return os.open(path, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except NotADirectoryError:
            pass
    beneath = 0 if path.startswith("/") else RESOLVE_BENEATH
    return openat2(directory, path, _DIRECTORY, resolve=RESOLVE_NO_MAGICLINKS | beneath)


def starts_as_usual(bundle: Bundle, options: RunOptions) -> bool:
    """Whether all sources of mounts are there, a program that everybody may execute, and nothing that is rare.

    Otherwise `engine.bundle.program.check` has to look closer. This costs a start little.
    """
    spaces = bundle.config.get("linux", {}).get("namespaces", ())
    if bundle.config["process"].get("terminal") or any(space["type"] == "user" for space in spaces):
        return False
    if options.network == "sandbox" if options.rootless else os.geteuid() != 0:
        return False
    for mount in bundle.config.get("mounts", ()):
        if oci_config.is_bind(mount) and not os.path.exists(os.path.join(bundle.path, mount["source"])):
            return False
    process = bundle.config["process"]
    name: str = process["args"][0]
    places = [process["cwd"]]
    if "/" not in name:
        paths = [entry[5:] for entry in process.get("env", ()) if entry.startswith("PATH=")]
        places = [place for place in paths[0].split(":") if place.startswith("/")] if paths else []
    for place in places:
        try:
            return _starts(bundle.rootfs_directory, os.path.normpath(os.path.join(place, name)))
        except OSError:
            continue
    return False


def _starts(root: int, path: str) -> bool:
    """Whether it is an ELF file that starts here, and its loader as well. Raises `OSError`."""
    descriptor = open_in_root(root, path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o111 != 0o111:
            return False
        file = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)
    try:
        first = os.pread(file, FIRST_BYTES, 0)
        if elf_fault(first) is not None:
            return False
        needed = loader(file, first)
    finally:
        os.close(file)
    return needed is None or (needed != path and _starts(root, needed))


def elf_fault(first: bytes) -> str | None:
    """Why a file with these first bytes cannot be executed here, if it is no script; None if nothing is known."""
    if first[:4] != b"\x7fELF":
        return "it is neither an ELF file nor a script"
    if first[4:5] != b"\2":
        return "it is a 32-bit program"
    machine = _MACHINES.get(os.uname().machine)
    if machine is not None and int.from_bytes(first[18:20], "little") != machine:
        return "it is a program for another machine"
    return None


def loader(file: int, first: bytes) -> str | None:
    """The path of a 64-bit ELF file's dynamic loader (PT_INTERP); None if it needs none. Raises `OSError`."""
    start, size, count = struct.unpack_from("<Q14xHH", first.ljust(64, b"\0"), 32)
    table = first[start : start + 56 * count]
    if size != 56 or len(table) != 56 * count:
        return None
    for kind, _, offset, _, _, length, _, _ in struct.iter_unpack("<IIQQQQQQ", table):
        if kind == 3 and 1 < length <= FIRST_BYTES and offset < 1 << 62:
            name = os.pread(file, length, offset)
            return os.fsdecode(name[:-1]) if name.endswith(b"\0") and len(name) == length else None
    return None
