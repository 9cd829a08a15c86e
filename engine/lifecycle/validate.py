"""Step `validate`: opens the binary once, checks it by that descriptor, and keeps it open: it is pinned.

A file put at the path later is another inode and is never read. A rewrite in place changes `Identity`, which staging
compares.
"""

from __future__ import annotations

import os

from engine.errors import Reason, ValidateError, hint_for
from engine.lifecycle.resolve import TRUSTED_PATHS, Resolved
from engine.linux.files import UntrustedPathError, open_trusted
from engine.linux.namespaces import unmapped_uid
from engine.linux.regular_files import Identity
from engine.options import Platform
from engine.records import TYPE_CHECKING, dataclass, replace
from engine.runsc.capabilities import UNKNOWN, Capabilities, capabilities
from engine.runsc.installation import OWN_COPY, RUNSC, PinnedFile, pin, pin_sidecars, require_elf
from engine.traces.writer import identity_facts

if TYPE_CHECKING:
    from engine.traces.schema import ValidateFacts

_SCRIPT = b"#!"
#: Bytes; a Nix wrapper has a few lines.
_MAX_WRAPPER = 4096


@dataclass(frozen=True, slots=True)
class Validated:
    """The pinned binary. `descriptor` is open for reading; `path` is free of links.

    `wrapper`: the script that names the binary, if any. `platform`: the one to use. `sidecars`: the files of
    `gvisor-bin/`, checked by the same rules; `release`: that of all of them, None if unknown. A runsc that is one file
    has neither.
    """

    descriptor: int
    path: str
    wrapper: str | None
    identity: Identity
    owner: int
    mode: int
    trusted_owners: tuple[int, ...]
    platform: Platform
    capabilities: Capabilities
    starts_sidecars: bool = False
    sidecars: tuple[PinnedFile, ...] = ()
    release: str | None = None

    @property
    def runsc(self) -> PinnedFile:
        """The binary alone, as one of the files of the installation."""
        return PinnedFile(RUNSC, self.descriptor, self.path, self.identity, self.owner, self.mode)

    def facts(self) -> ValidateFacts:
        facts: ValidateFacts = {
            "path": self.path,
            "wrapper": self.wrapper,
            "identity": identity_facts(self.identity),
            "owner": self.owner,
            "mode": f"{self.mode:04o}",
            "trusted_owners": list(self.trusted_owners),
            "immutable_store": self.path.startswith("/nix/store/") and self.mode & 0o222 == 0,
            "platforms": list(self.capabilities.platforms),
            "platform": str(self.platform),
        }
        if self.sidecars:
            facts["sidecars"] = [
                {
                    "name": sidecar.name,
                    "path": sidecar.path,
                    "identity": identity_facts(sidecar.identity),
                    "owner": sidecar.owner,
                    "mode": f"{sidecar.mode:04o}",
                }
                for sidecar in self.sidecars
            ]
            facts["release"] = self.release
        return facts

    def discard(self) -> list[str]:
        """Nothing was made."""
        return []

    def close(self) -> None:
        """Unpin it."""
        for descriptor in (self.descriptor, *(sidecar.descriptor for sidecar in self.sidecars)):
            os.close(descriptor)


def validate(resolved: Resolved, platform: Platform) -> Validated:
    """Open the file that `resolve` found, or the binary that this Nix wrapper starts, and check it.

    Trusted: a regular executable ELF file, not writable by group or world, owned by root or the effective user (or an
    immutable Nix store file), on a path of which no other user can rewrite any part. The same holds for every file of
    `gvisor-bin/` beside a build that starts programs from there (`engine.runsc.installation`). `platform`: the one
    asked for; `auto` becomes systrap if the build has it, else ptrace. Raises `ValidateError`, also if the build lacks
    the platform, or files of its installation are missing or of different releases.
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
            f"on the way to runsc {path!r}, {error}", reason=Reason.LOOSE_CHAIN, hint=OWN_COPY
        ) from None
    except OSError as error:
        raise ValidateError(
            f"runsc {path!r}: {error.strerror}",
            reason=Reason.ABSENT if isinstance(error, FileNotFoundError) else Reason.FAILURE,
            hint=hint_for(error, "name another with --runsc PATH"),
        ) from None
    try:
        file = pin(RUNSC, opened, owners)
    finally:
        os.close(opened.descriptor)
    return Validated(
        descriptor=file.descriptor,
        path=file.path,
        wrapper=None,
        identity=file.identity,
        owner=file.owner,
        mode=file.mode,
        trusted_owners=owners,
        platform=platform,
        capabilities=UNKNOWN,
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
    """The `binary`, when its content and its sidecars were judged, too."""
    runsc = binary.runsc
    require_elf(runsc)
    able = capabilities(binary.descriptor)
    platforms = able.platforms
    platform = binary.platform
    if platform is Platform.AUTO:
        platform = Platform.SYSTRAP if Platform.SYSTRAP in platforms else Platform.PTRACE
    elif platforms and platform not in platforms:
        raise ValidateError(
            f"runsc {binary.path!r} was built without the platform {platform} (it has {', '.join(platforms)})",
            reason=Reason.NO_PLATFORM,
            hint="choose another --platform, or a newer runsc",
        )
    installed = pin_sidecars(runsc, binary.trusted_owners, has_package=able.has_sidecar_package)
    sidecars, release = installed or ((), None)
    return replace(
        binary,
        wrapper=wrapper,
        platform=platform,
        capabilities=able,
        starts_sidecars=installed is not None,
        sidecars=sidecars,
        release=release,
    )
