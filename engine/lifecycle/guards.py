"""The lifecycle's guards: whether what has been recorded so far permits a step.

They read recorded facts and nothing else, so that whoever reads a trace later asks the same again. A value that the
engine could not have written is not believed: what follows from other facts must be as it follows, paths must be
absolute and without `..`, and where the engine has a fixed choice there is no other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from engine.bundle.given import is_given
from engine.lifecycle.resolve import TRUSTED_PATHS
from engine.options import ExecPolicy, Platform
from engine.runsc.arguments import are_creation_arguments, build_environment, global_flags
from engine.runsc.binary import is_release, is_version
from engine.runsc.capabilities import CREATION_FLAGS, creation_flags_of
from engine.runsc.installation import (
    MAX_SIDECARS,
    PREWARMER,
    RUNSC,
    SENTRY,
    SIDECARS,
    is_sidecar_name,
)
from engine.state.container import EXEC_ALLOW, GIVEN_BUNDLE, LOCK, RUNSC_ROOT, RUNTIME, component
from engine.traces.move import FORMAT, Facts, PolicyOutcome, Strength

#: The facts recorded so far: the header's under `header`, each step's under its trigger.
Known = Mapping[str, Facts]

#: In the order in which validate has them; and of the policy's bypasses, those that do not depend on the bundle.
_PLATFORMS = [str(platform) for platform in Platform if platform is not Platform.AUTO]
_BYPASSES = ["memfd", "stdin", "stdout", "stderr"]
#: What else is open where new files can be executed; the terminal only on a machine without the filters.
_OF_A_HOST = (["allowed", "mount"], ["allowed", "mount", "terminal"])
#: Paths that are remembered: those of a host are the same in many traces.
_REMEMBERED = 1024
#: The permissions of a staged copy.
_MODE, _MODE_UNTIL_FORMAT_2 = "0555", "0500"
_OCTAL, _HEXADECIMAL, _OF_STAGE = "01234567", "0123456789abcdef", "0123456789abcdef-"
#: Bytes: `validate` reads as many to see that it is an ELF file.
_MIN_PROGRAM = 4
#: Base, container, runsc's root, its runtime directory.
_DIRECTORIES = 4
#: The policy of earlier versions.
_LANDLOCK = "landlock"


@lru_cache(_REMEMBERED)
def _is_plain(path: str) -> bool:
    """Whether `path` is absolute and normalised; that of a user may begin with two slashes, POSIX."""
    return path[:1] == "/" and os.path.normpath(path) == path and "\0" not in path


@lru_cache(_REMEMBERED)
def _is_own(path: str) -> bool:
    """Whether it can be one that the engine made itself, from the root on and without links."""
    return path[1:2] not in ("", "/") and _is_plain(path)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not text.strip(_HEXADECIMAL)


def found_a_path(known: Known) -> bool:
    path, found_by = known["resolve"]["path"], known["resolve"]["found_by"]
    chosen = known["header"]["options"]["runsc"]
    if found_by == "option":
        return chosen is not None and _is_plain(path) and (path == chosen or _leads_to(chosen, path))
    if chosen is not None or path[:1] != "/" or "\0" in path:
        return False
    return path in TRUSTED_PATHS if found_by == "trusted path" else path.endswith(f"/{RUNSC}")


def _leads_to(chosen: str, path: str) -> bool:
    """Whether `path` is what the user chose, from some current directory."""
    chosen = os.path.normpath(chosen)
    if chosen[:1] == "/":
        return path == chosen
    while chosen[:3] == "../":
        chosen = chosen[3:]
    return chosen in (".", "..") or path.endswith(f"/{chosen}")


def path_is_not_roots(known: Known) -> bool:
    return bool(known["resolve"]["found_by"] != "PATH" or known["header"]["host"]["user"] != 0)


def binary_is_trusted(known: Known) -> bool:
    binary, options, wrapper = known["validate"], known["header"]["options"], known["validate"]["wrapper"]
    return (
        _is_trusted(binary, binary["trusted_owners"])
        and binary["immutable_store"] is _is_immutable(binary)
        and (wrapper is None or _is_own(wrapper))
        and _may_be_owners(binary["trusted_owners"], known)
        and _is_platform(binary["platforms"], options["platform"], binary["platform"])
        and ("creation_flags" not in binary or binary["creation_flags"] in CREATION_FLAGS)
    )


def _is_trusted(file: Facts, owners: Collection[int]) -> bool:
    """Whether a program, which is at its path without links, can be executed, and rewritten by its owner alone."""
    identity = file["identity"]
    return (
        _is_mode_of_program(file["mode"])
        and (file["owner"] in owners or _is_immutable(file))
        and _is_own(file["path"])
        and identity["size"] >= _MIN_PROGRAM
        and identity["device"] >= 0
        and identity["inode"] > 0
    )


@lru_cache(_REMEMBERED)
def _is_mode_of_program(mode: str) -> bool:
    """Whether it is one as the engine writes it, of a file that somebody can execute and only its owner can write."""
    is_mode = len(mode) == len("0755") and not mode.strip(_OCTAL)
    return is_mode and int(mode, 8) & 0o022 == 0 and int(mode, 8) & 0o111 != 0


def _is_immutable(file: Facts) -> bool:
    """Whether it is in a Nix store, and nobody has the mode to write it."""
    return file["path"].startswith("/nix/store/") and int(file["mode"], 8) & 0o222 == 0


def _may_be_owners(owners: list[int], known: Known) -> bool:
    """Whether they are root and the user; on a trusted path, one more stands for a root that has no uid here."""
    user = known["header"]["host"]["user"]
    expected = [0, user] if user else [0]
    if owners == expected:
        return True
    return (
        len(owners) == len(expected) + 1
        and owners == sorted({*owners, *expected})
        and known["resolve"]["path"] in TRUSTED_PATHS
    )


def _is_platform(has: list[str], chosen: str, used: str) -> bool:
    """Whether the `chosen` platform leads to the one that is used, of those that the build has."""
    if chosen == Platform.AUTO:
        chosen = "systrap" if "systrap" in has else "ptrace"
    elif has and chosen not in has:
        return False
    return used == chosen and (has == _PLATFORMS or has == [name for name in _PLATFORMS if name in has])


def sidecars_are_trusted(known: Known) -> bool:
    binary = known["validate"]
    # Traces of before this was recorded are of as many files as they name.
    starts = binary.get("starts_sidecars", "sidecars" in binary)
    if not starts:
        return "sidecars" not in binary and "release" not in binary
    if not ("release" in binary and binary.get("sidecars")):
        return False
    sidecars, release = binary["sidecars"], binary["release"]
    names = [sidecar["name"] for sidecar in sidecars]
    folder = os.path.dirname(sidecars[0]["path"])
    return (
        SENTRY in names
        and len(names) <= MAX_SIDECARS
        and names == sorted(set(names))
        and (release is None or is_release(release))
        and all(
            is_sidecar_name(sidecar["name"])
            and sidecar["path"] == f"{folder}/{sidecar['name']}"
            and _is_trusted(sidecar, binary["trusted_owners"])
            for sidecar in sidecars
        )
        and _are_distinct([binary, *(file for file in sidecars if file["name"] in (SENTRY, PREWARMER))])
    )


def _are_distinct(files: Sequence[Facts]) -> bool:
    return len({(file["identity"]["device"], file["identity"]["inode"]) for file in files}) == len(files)


def root_is_private(known: Known) -> bool:
    root, header = known["secure_root"], known["header"]
    user, directories = header["host"]["user"], root["directories"]
    if len(directories) != _DIRECTORIES or root["user"] != user:
        return False
    base = directories[0]["path"]
    container = f"{base}/{component(header['container'])}"
    runsc_root = f"{container}/{RUNSC_ROOT}"
    if not (
        directories[1]["path"] == container
        and directories[2]["path"] == runsc_root
        and directories[3]["path"] == f"{runsc_root}/{RUNTIME}"
        and root["lock"] == f"{container}/{LOCK}"
        and _is_own(base)
    ):
        return False
    if root["cleaned"] and not all(path == runsc_root or _is_stage(path) for path in root["cleaned"]):
        return False
    if "programs" in root or "sandbox" in root:
        others = _directories_elsewhere(root, base)
        if others is None:
            return False
        directories = [*directories, *others]
    for directory in directories:  # noqa: SIM110 (a generator takes twice as long)
        if directory["owner"] != user or directory["mode"] != "0700":
            return False
    return True


def _directories_elsewhere(root: Facts, base: str) -> list[Facts] | None:
    """The program's directory and the sandbox's, if they are where these can be."""
    found: list[Facts] = []
    if "programs" in root:
        if not _is_own(root["programs"]["path"]):
            return None
        found.append(root["programs"])
    if "sandbox" in root:
        if not _is_sandbox(root["sandbox"], base):
            return None
        found += root["sandbox"]["directories"]
    return found


def _is_stage(path: str) -> bool:
    return path[:1] == "/" and os.path.basename(path).startswith("stage-")


def _is_sandbox(sandbox: Facts, base: str) -> bool:
    """Whether its two directories are those of the sandbox with this id under `base`."""
    container = f"{base}/{component(sandbox['id'])}"
    paths = [directory["path"] for directory in sandbox["directories"]]
    return paths == [container, f"{container}/{RUNSC_ROOT}"] and _is_digest(sandbox["sha256"])


def copy_is_where_programs_lie(known: Known) -> bool:
    root, path = known["secure_root"], known["stage"]["path"]
    place = (
        root["programs"]["path"] if "programs" in root else f"{root['directories'][2]['path']}/{EXEC_ALLOW}"
    )
    begin, end = f"{place}/stage-", f"/{RUNSC}"
    name = path[len(begin) : -len(end)]
    return path == f"{begin}{name}{end}" and name != "" and not name.strip(_OF_STAGE)


def copy_is_what_was_pinned(known: Known) -> bool:
    staged, joined = known["stage"], known["secure_root"].get("sandbox")
    return (
        _is_copy(staged, known["validate"], known["header"])
        and (joined is None or staged["sha256"] == joined["sha256"])
        and _is_version_of(known["validate"].get("release"), staged.get("version"))
    )


def _is_version_of(release: str | None, version: str | None) -> bool:
    return version is None or (is_version(version) and release in (None, version))


def _is_copy(staged: Facts, pinned: Facts, header: Facts) -> bool:
    identity, hashed = pinned["identity"], staged["hashed"]
    if not (
        staged["pinned"] == staged["made_from"] == identity
        and staged["size"] == identity["size"]
        and staged["mode"] == (_MODE if header.get("format", FORMAT) > 2 else _MODE_UNTIL_FORMAT_2)
        and _is_digest(staged["sha256"])
    ):
        return False
    if not staged["from_store"]:
        return hashed is True and staged["compared"] is False
    # What was compared byte for byte is not hashed again.
    compared = pinned["owner"] != header["host"]["user"]
    return staged["shared"] is True and staged["compared"] is compared and not (compared and hashed)


def sidecars_are_what_was_pinned(known: Known) -> bool:
    staged, pinned = known["stage"].get("sidecars", []), known["validate"].get("sidecars", [])
    if not (staged or pinned):
        return "sidecars" not in known["stage"]
    place = f"{os.path.dirname(known['stage']['path'])}/{SIDECARS}"
    return len(staged) == len(pinned) and all(
        copy["name"] == file["name"]
        and copy["path"] == f"{place}/{file['name']}"
        and _is_copy(copy, file, known["header"])
        for copy, file in zip(staged, pinned, strict=True)
    )


def policy_permits(known: Known) -> bool:
    options, policy = known["header"]["options"], known["apply_policy"]
    outcome = policy["outcome"]
    if outcome == PolicyOutcome.ENFORCED:
        can_be = options["rootless"] is True and options["exec_policy"] != ExecPolicy.OFF
        return can_be and _is_enforced(policy, known)
    if options["require_exec_policy"]:
        return False
    return bool(
        outcome == (PolicyOutcome.UNAVAILABLE if options["rootless"] else PolicyOutcome.NOT_APPLICABLE)
        and policy["mechanism"] is policy["strength"] is policy["ids"] is None
        and not policy["allowed"]
        and not policy["open"]
        and policy["reason"]
    )


def _is_enforced(policy: Facts, known: Known) -> bool:
    """Whether what is said of an enforced policy goes together."""
    header = known["header"]
    if header["options"]["exec_policy"] == _LANDLOCK:
        return policy["mechanism"] == _LANDLOCK and "sidecars" not in known["stage"]
    bypasses = policy["open"]
    is_open = "allowed" in bypasses
    return (
        policy["mechanism"] == "locked-mounts"
        and policy["ids"] is not None
        and policy["reason"] is None
        and policy["strength"] == (Strength.HOST if is_open else Strength.SEALED)
        and (
            _are_by_descriptor(bypasses[: bypasses.index("allowed")])
            if is_open
            else _are_by_descriptor(bypasses)
        )
        and (not is_open or bypasses[bypasses.index("allowed") :] in _OF_A_HOST)
        and _allows_exactly_the_set(policy["allowed"], header["bundle"]["rootfs"], known)
    )


def _are_by_descriptor(given: list[str]) -> bool:
    """Whether these are ways to execute something by a descriptor, in the order in which they are looked for."""
    if given in ([], ["memfd"]):
        return True
    named = [name for name in _BYPASSES if name in given]
    numbers = [name.removeprefix("fd ") for name in given[len(named) :]]
    return given == [*named, *(f"fd {number}" for number in sorted(_at_least_3(numbers)))]


def _at_least_3(numbers: list[str]) -> set[int]:
    return {int(number) for number in numbers if number.isdigit() and int(number) > 2}


def _allows_exactly_the_set(allowed: list[str], rootfs: str, known: Known) -> bool:
    """Whether the bundle's files and then the staged ones can be executed, and nothing else where the engine's lie.

    Runsc alone is executed by descriptor, from no mount.
    """
    staged = known["stage"]
    nest = f"{os.path.dirname(os.path.dirname(staged['path']))}/"
    if "sidecars" in staged:
        files = [staged["path"], *(sidecar["path"] for sidecar in staged["sidecars"])]
        bundles = allowed[: -len(files)]
        if allowed[-len(files) :] != files:
            return False
        places: tuple[str, ...] = (nest, f"{known['secure_root']['directories'][0]['path']}/")
    else:
        bundles, places = allowed, (nest,)
    if bundles[:1] != [rootfs] or (len(bundles) > 1 and len(set(bundles)) < len(bundles)):
        return False
    return not [
        path for path in bundles if not _is_plain(path) or f"/{path.strip('/')}/".startswith(("//", *places))
    ]


def bundle_is_unchanged(known: Known) -> bool:
    return bool(known["exec"]["bundle"] == known["header"]["bundle"])


def config_is_as_judged(known: Known) -> bool:
    given = known["exec"].get("config")
    return given is None or is_given(given, known["header"]["bundle"])  # an older engine gave it the caller's


def executes_the_staged_copy(known: Known) -> bool:
    argv, joined = known["exec"]["argv"], known["secure_root"].get("sandbox")
    return bool(
        argv[0] == known["stage"]["path"]
        and (joined is None or argv[1:3] == ["--root", joined["directories"][1]["path"]])
    )


def arguments_are_the_engines(known: Known) -> bool:
    header, given, root, binary = known["header"], known["exec"], known["secure_root"], known["validate"]
    options, directories = header["options"], root["directories"]
    used = root["sandbox"]["directories"][1] if "sandbox" in root else directories[2]
    asked = (options["rootless"], options["ignore_cgroups"], options.get("runsc_flags", ()))
    common = global_flags(used["path"], options["network"], binary["platform"], *asked)
    argv = given["argv"]
    begin = 1 + len(common)
    rest = argv[begin:]
    # Traces of before this was recorded do not say what the build has.
    flags = binary["creation_flags"] if "creation_flags" in binary else creation_flags_of(rest)
    if flags:
        if rest[: len(flags)] != flags:
            return False
        rest = rest[len(flags) :]
    bundle = f"{directories[2]['path']}/{GIVEN_BUNDLE}" if "config" in given else header["bundle"]["path"]
    return (
        argv[1:begin] == common
        and given["environment"] == build_environment(directories[3]["path"])
        and are_creation_arguments(rest, bundle, header["container"])
    )
