"""Step `validate`: opens the binary once, checks it by that descriptor, and keeps it open: it is pinned.

A file put at the path later is another inode and is never read. A rewrite in place changes `Identity`, which staging
compares.
"""

from __future__ import annotations

import os
import stat

from engine.errors import Reason, ValidateError, hint_for
from engine.lifecycle.resolve import TRUSTED_PATHS, Resolved
from engine.linux.files import Opened, UntrustedPathError, is_immutable_store_entry, open_trusted
from engine.linux.namespaces import unmapped_uid
from engine.linux.regular_files import Identity
from engine.options import Platform
from engine.records import TYPE_CHECKING, dataclass, replace
from engine.runsc.binary import platform_package, texts_in
from engine.traces.writer import identity_facts

if TYPE_CHECKING:
    from engine.traces.schema import ValidateFacts

_ELF = b"\x7fELF"
_SCRIPT = b"#!"
#: Bytes; a Nix wrapper has a few lines.
_MAX_WRAPPER = 4096
_OWN_COPY = "install runsc from a package, or copy it where only root or you can write, owned so, mode 0755"


@dataclass(frozen=True, slots=True)
class Validated:
    """The pinned binary. `descriptor` is open for reading; `path` is free of links.

    `wrapper`: the script that names the binary, if any. `platforms`: those of this build, empty if unknown; `platform`:
    the one to use.
    """

    descriptor: int
    path: str
    wrapper: str | None
    identity: Identity
    owner: int
    mode: int
    trusted_owners: tuple[int, ...]
    platforms: tuple[str, ...]
    platform: Platform

    def facts(self) -> ValidateFacts:
        return {
            "path": self.path,
            "wrapper": self.wrapper,
            "identity": identity_facts(self.identity),
            "owner": self.owner,
            "mode": f"{self.mode:04o}",
            "trusted_owners": list(self.trusted_owners),
            "immutable_store": self.path.startswith("/nix/store/") and self.mode & 0o222 == 0,
            "platforms": list(self.platforms),
            "platform": str(self.platform),
        }

    def discard(self) -> list[str]:
        """Nothing was made."""
        return []

    def close(self) -> None:
        """Unpin it."""
        os.close(self.descriptor)


def validate(resolved: Resolved, platform: Platform) -> Validated:
    """Open the file that `resolve` found, or the binary that this Nix wrapper starts, and check it.

    Trusted: a regular executable ELF file, not writable by group or world, owned by root or the effective user (or an
    immutable Nix store file), on a path of which no other user can rewrite any part. `platform`: the one asked for;
    `auto` becomes systrap if the build has it, else ptrace. Raises `ValidateError`, also if the build lacks the
    platform.
    """
    owners = {0, os.geteuid()}
    if resolved.path in TRUSTED_PATHS and (unmapped := unmapped_uid()) is not None:
        # An unmapped root of the host appears as this uid, as does every other unmapped user. On the trusted paths,
        # where only root can write, it counts as root.
        owners.add(unmapped)
    binary = _pin(resolved.path, tuple(sorted(owners)), platform)
    try:
        if os.pread(binary.descriptor, len(_SCRIPT), 0) != _SCRIPT:
            return _as_elf(binary)
        wrapped = _wrapped_binary(binary)
        if wrapped is None:
            raise ValidateError(
                f"runsc {binary.path!r} is a script and names no runsc binary to start",
                reason=Reason.NOT_A_PROGRAM,
                hint="name the ELF binary itself with --runsc PATH",
            )
    except BaseException:
        binary.close()
        raise
    binary.close()
    script, binary = binary.path, _pin(wrapped, binary.trusted_owners, platform)
    try:
        return _as_elf(binary, wrapper=script)
    except BaseException:
        binary.close()
        raise


def _pin(path: str, owners: tuple[int, ...], platform: Platform) -> Validated:
    """Open and check the file at `path`; its content is not read yet."""
    try:
        opened = open_trusted(path, owners, follow_links=True)
    except UntrustedPathError as error:
        raise ValidateError(
            f"on the way to runsc {path!r}, {error}", reason=Reason.LOOSE_CHAIN, hint=_OWN_COPY
        ) from None
    except OSError as error:
        raise ValidateError(
            f"runsc {path!r}: {error.strerror}",
            reason=Reason.ABSENT if isinstance(error, FileNotFoundError) else Reason.FAILURE,
            hint=hint_for(error, "name another with --runsc PATH"),
        ) from None
    try:
        status = os.fstat(opened.descriptor)
        _judge(opened, status, owners)
        # The kernel's link to the open file, proc(5): not a second look-up by name.
        descriptor = os.open(f"/proc/self/fd/{opened.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ValidateError(
            f"runsc {opened.path!r} cannot be read: {error.strerror}",
            reason=Reason.FAILURE,
            hint=hint_for(error, "make it readable (mode 0755), and see that /proc is mounted"),
        ) from None
    finally:
        os.close(opened.descriptor)
    return Validated(
        descriptor=descriptor,
        path=opened.path,
        wrapper=None,
        identity=Identity.of(status),
        owner=status.st_uid,
        mode=stat.S_IMODE(status.st_mode),
        trusted_owners=owners,
        platforms=(),
        platform=platform,
    )


def _judge(opened: Opened, status: os.stat_result, owners: tuple[int, ...]) -> None:
    path, mode = opened.path, stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise ValidateError(
            f"runsc {path!r} is not a regular file",
            reason=Reason.NOT_A_PROGRAM,
            hint="name the binary with --runsc PATH",
        )
    if mode & 0o022:
        raise ValidateError(
            f"runsc {path!r} can be written by group or world (mode {mode:04o})",
            reason=Reason.LOOSE_MODE,
            hint=f"chmod go-w {path!r}, after checking that it is what was installed",
        )
    if not mode & 0o111:
        raise ValidateError(
            f"runsc {path!r} is not executable (mode {mode:04o})",
            reason=Reason.NOT_A_PROGRAM,
            hint=f"chmod 0755 {path!r}",
        )
    if status.st_uid not in owners and not _is_immutable_artefact(opened, status):
        wanted = ", ".join(f"uid {uid}" for uid in owners)
        raise ValidateError(
            f"runsc {path!r} is owned by uid {status.st_uid} (expected {wanted} or an immutable /nix/store artefact)",
            reason=Reason.FOREIGN_OWNER,
            hint=_OWN_COPY,
        )


def _is_immutable_artefact(opened: Opened, status: os.stat_result) -> bool:
    """Whether this is a Nix store file that nobody can write, in a directory that nobody can write."""
    return (
        is_immutable_store_entry(opened.path, status)
        and opened.parent is not None
        and is_immutable_store_entry(os.path.dirname(opened.path), opened.parent)
    )


def _wrapped_binary(script: Validated) -> str | None:
    """The absolute path with `runsc` in it in the last `exec` line of a short wrapper script.

    Such a line: `exec -a "$0" "/nix/store/…/.runsc-wrapped" "$@"`.
    """
    if script.identity.size > _MAX_WRAPPER:
        return None
    text = os.pread(script.descriptor, _MAX_WRAPPER, 0).decode("utf-8", "replace")
    for line in reversed(text.splitlines()):
        if not line.strip().startswith("exec "):
            continue
        for token in line.split():
            path = token.strip('"')
            if path.startswith("/") and "runsc" in path and os.path.isfile(path):
                return path
    return None


def _as_elf(binary: Validated, wrapper: str | None = None) -> Validated:
    if os.pread(binary.descriptor, len(_ELF), 0) != _ELF:
        raise ValidateError(
            f"runsc {binary.path!r} is not an ELF binary",
            reason=Reason.NOT_A_PROGRAM,
            hint="name the runsc binary with --runsc PATH",
        )
    packages = {platform_package(name): str(name) for name in Platform if name is not Platform.AUTO}
    found = texts_in(binary.descriptor, packages)
    platforms = tuple(name for package, name in packages.items() if package in found)
    platform = binary.platform
    if platform is Platform.AUTO:
        platform = Platform.SYSTRAP if Platform.SYSTRAP in platforms else Platform.PTRACE
    elif platforms and platform not in platforms:
        raise ValidateError(
            f"runsc {binary.path!r} was built without the platform {platform} (it has {', '.join(platforms)})",
            reason=Reason.NO_PLATFORM,
            hint="choose another --platform, or a newer runsc",
        )
    return replace(binary, wrapper=wrapper, platforms=platforms, platform=platform)
