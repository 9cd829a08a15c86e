"""Step `validate`: opens the binary once, checks it by that descriptor, and keeps it open: it is pinned.

A file put at the path later is another inode and is never read. A rewrite in place changes `Identity`, which staging
compares.
"""

from __future__ import annotations

import os

from engine.errors import Reason, ValidateError
from engine.lifecycle.resolve import TRUSTED_PATHS, Resolved
from engine.linux.files import open_trusted
from engine.linux.namespaces import unmapped_uid
from engine.options import Platform, RunOptions
from engine.runsc.capabilities import Capabilities, capabilities
from engine.runsc.installation import RUNSC, PinnedFile, opening, pin, pin_sidecars, require_elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from engine.bundle.bundle import Bundle
    from engine.enforcement.judge import Unenforced
    from engine.traces.schema import ValidateFacts

_SCRIPT = b"#!"
#: Bytes; a Nix wrapper has a few lines.
_MAX_WRAPPER = 4096


class Validated:
    """The pinned `runsc`, and its `sidecars`, the files of `gvisor-bin/`, checked by the same rules.

    `wrapper`: the script that names runsc, if any. `platform`: the one to use. `release`: that of all the files, None
    if unknown. A runsc that is one file has neither sidecars nor a release,
    and `starts_sidecars` is False.
    """

    def __init__(
        self,
        runsc: PinnedFile,
        trusted_owners: tuple[int, ...],
        platform: Platform,
        capabilities: Capabilities,
        wrapper: str | None = None,
        starts_sidecars: bool = False,
        sidecars: tuple[PinnedFile, ...] = (),
        release: str | None = None,
    ) -> None:
        self.runsc: Final = runsc
        self.trusted_owners: Final = trusted_owners
        self.platform: Final = platform
        self.capabilities: Final = capabilities
        self.wrapper: Final = wrapper
        self.starts_sidecars: Final = starts_sidecars
        self.sidecars: Final = sidecars
        self.release: Final = release
        #: What of the bundle it will not do as asked; None where no bundle was held against it.
        self.unenforced: tuple[Unenforced, ...] | None = None

    def facts(self) -> ValidateFacts:
        from engine.traces.writer import identity_facts  # only for a trace

        runsc = self.runsc
        facts: ValidateFacts = {
            "path": runsc.path,
            "wrapper": self.wrapper,
            "identity": identity_facts(runsc.identity),
            "owner": runsc.owner,
            "mode": f"{runsc.mode:04o}",
            "trusted_owners": list(self.trusted_owners),
            "immutable_store": runsc.path.startswith("/nix/store/") and runsc.mode & 0o222 == 0,
            "platforms": list(self.capabilities.platforms),
            "platform": str(self.platform),
            "creation_flags": list(self.capabilities.creation_flags()),
            "starts_sidecars": self.starts_sidecars,
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
        if self.unenforced is not None:
            facts["unenforced"] = [{"name": each.name, "becomes": each.becomes} for each in self.unenforced]  # type: ignore[typeddict-item]  # a word of the table
        return facts

    def discard(self) -> list[str]:
        """Nothing was made."""
        return []

    def close(self) -> None:
        """Unpin it."""
        for file in (self.runsc, *self.sidecars):
            os.close(file.descriptor)


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
    trusted = tuple(sorted(owners))
    runsc, wrapper = _pin(resolved.path, trusted), None
    try:
        if os.pread(runsc.descriptor, len(_SCRIPT), 0) == _SCRIPT:
            script, runsc = runsc, _pin(_wrapped_binary(runsc), trusted)
            wrapper = script.path
            os.close(script.descriptor)
        return _as_elf(runsc, trusted, platform, wrapper)
    except BaseException:
        os.close(runsc.descriptor)
        raise


def hold_against(
    binary: Validated, bundle: Bundle, options: RunOptions, joins_a_pod: bool | None = None
) -> Validated:
    """`binary`, which knows from here on what of the bundle it will not do as asked.

    `joins_a_pod`: whether the container will run in a pod's sandbox; None if only annotations tell.
    Raises `ValidateError`, and closes it, if there is such a thing and the options require that there is none; or if it
    lacks a flag that is to be passed on.
    """
    from engine.enforcement.judge import UNSEEN, unenforced

    try:
        if options.runsc_flags:
            _check_flags(binary.runsc, options.runsc_flags)
        found = unenforced(bundle.config, bundle.sources, options, binary.capabilities, joins_a_pod)
        binary.unenforced = found
        if options.require_enforced and (seen := [str(each) for each in found if each.danger < UNSEEN]):
            raise ValidateError(
                f"runsc {binary.runsc.path!r} will not do as asked: {', '.join(seen)}",
                reason=Reason.NOT_ENFORCED,
                hint="take it out of config.json, or leave out --require-enforced",
            )
    except BaseException:
        binary.close()
        raise
    return binary


def _check_flags(runsc: PinnedFile, flags: Sequence[str]) -> None:
    """Raise `ValidateError` if this runsc lacks one of the `flags`, or others could change where it is to write."""
    from engine.linux.files import UntrustedPathError
    from engine.runsc.binary import texts_in
    from engine.runsc_flags import directories_of, tags_of

    tags = tags_of(flags)
    there = texts_in(runsc.descriptor, tags.keys())
    if missing := [flag for tag, flag in tags.items() if tag not in there]:
        raise ValidateError(
            f"runsc {runsc.path!r} has no flag {', '.join(missing)}",
            reason=Reason.UNSUPPORTED,
            hint="leave it out, or name another runsc with --runsc PATH",
        )
    for path in directories_of(flags):
        try:
            opened = open_trusted(path, {0, os.geteuid()}, follow_links=True, directory=True)
        except (UntrustedPathError, OSError) as error:
            what = str(error) if isinstance(error, UntrustedPathError) else f"{path!r}: {error.strerror}"
            raise ValidateError(
                f"runsc's log: {what}",
                reason=Reason.UNSUPPORTED,
                hint="give a directory that exists, where only root or you can write",
            ) from None
        try:
            # With the sticky bit, too: names there can be taken.
            if os.fstat(opened.descriptor).st_mode & 0o022:
                raise ValidateError(
                    f"runsc's log: others can write in {path!r}",
                    reason=Reason.UNSUPPORTED,
                    hint="give a directory where only root or you can write",
                )
        finally:
            os.close(opened.descriptor)


def _pin(path: str, owners: tuple[int, ...]) -> PinnedFile:
    """Open and check the file at `path`; its content is not read yet."""
    with opening(f"runsc {path!r}", FileNotFoundError, Reason.ABSENT, "name another with --runsc PATH"):
        opened = open_trusted(path, owners, follow_links=True)
    try:
        return pin(RUNSC, opened, owners)
    finally:
        os.close(opened.descriptor)


def _wrapped_binary(script: PinnedFile) -> str:
    """The absolute path with `runsc` in it in the last `exec` line of a short wrapper script.

    Such a line: `exec -a "$0" "/nix/store/…/.runsc-wrapped" "$@"`. Raises `ValidateError`.
    """
    is_short = script.identity.size <= _MAX_WRAPPER
    text = os.pread(script.descriptor, _MAX_WRAPPER, 0).decode("utf-8", "replace")
    for line in reversed(text.splitlines() if is_short else ()):
        if not line.strip().startswith("exec "):
            continue
        for token in line.split():
            path = token.strip('"')
            if path.startswith("/") and "runsc" in path and os.path.isfile(path):
                return path
    raise ValidateError(
        f"runsc {script.path!r} is a script and names no runsc binary to start",
        reason=Reason.NOT_A_PROGRAM,
        hint="name the ELF binary itself with --runsc PATH",
    )


def _as_elf(runsc: PinnedFile, owners: tuple[int, ...], platform: Platform, wrapper: str | None) -> Validated:
    """The pinned `runsc`, when its content and its sidecars were judged, too."""
    require_elf(runsc)
    able = capabilities(runsc.descriptor)
    platforms = able.platforms
    if not platforms:
        raise ValidateError(
            f"{runsc.path!r} is no runsc: it has none of gVisor's platforms",
            reason=Reason.NOT_A_PROGRAM,
            hint="name runsc itself with --runsc PATH",
        )
    if platform is Platform.AUTO:
        platform = Platform.SYSTRAP if Platform.SYSTRAP in platforms else Platform.PTRACE
    elif platform not in platforms:
        raise ValidateError(
            f"runsc {runsc.path!r} was built without the platform {platform} (it has {', '.join(platforms)})",
            reason=Reason.NO_PLATFORM,
            hint="choose another --platform, or a newer runsc",
        )
    installed = pin_sidecars(runsc, owners, has_package=able.has_sidecar_package)
    sidecars, release = installed or ((), None)
    return Validated(runsc, owners, platform, able, wrapper, installed is not None, sidecars, release)
