"""The lifecycle's guards: whether what has been recorded so far permits a step.

They read recorded facts and nothing else, so that whoever reads a trace later asks the same again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from engine.options import ExecPolicy
from engine.runsc.installation import SENTRY, SIDECARS
from engine.state.container import EXEC_ALLOW
from engine.traces.move import Facts, PolicyOutcome

#: The facts recorded so far: the header's under `header`, each step's under its trigger.
Known = Mapping[str, Facts]


def found_a_path(known: Known) -> bool:
    return str(known["resolve"]["path"]).startswith("/")


def path_is_not_roots(known: Known) -> bool:
    return bool(known["resolve"]["found_by"] != "PATH" or known["header"]["host"]["user"] != 0)


def binary_is_trusted(known: Known) -> bool:
    binary = known["validate"]
    return _is_trusted(binary, binary["trusted_owners"], is_immutable=binary["immutable_store"] is True)


def _is_trusted(file: Facts, owners: Collection[int], *, is_immutable: bool) -> bool:
    mode = int(file["mode"], 8)
    return mode & 0o022 == 0 and mode & 0o111 != 0 and (file["owner"] in owners or is_immutable)


def sidecars_are_trusted(known: Known) -> bool:
    binary = known["validate"]
    if "sidecars" not in binary:
        return "release" not in binary
    sidecars = binary["sidecars"]
    names = [sidecar["name"] for sidecar in sidecars]
    return (
        "release" in binary
        and SENTRY in names
        and len(set(names)) == len(names)
        and all(
            os.path.basename(str(sidecar["path"])) == sidecar["name"]
            and _is_trusted(sidecar, binary["trusted_owners"], is_immutable=_is_immutable(sidecar))
            for sidecar in sidecars
        )
    )


def _is_immutable(file: Facts) -> bool:
    """Whether it is in a Nix store, and nobody has the mode to write it."""
    return str(file["path"]).startswith("/nix/store/") and int(file["mode"], 8) & 0o222 == 0


def root_is_private(known: Known) -> bool:
    root = known["secure_root"]
    directories = root["directories"]
    joined = root["sandbox"]["directories"] if "sandbox" in root else []
    apart = [root["programs"]] if "programs" in root else []
    return (
        len(directories) == 4
        and len(joined) == (2 if "sandbox" in root else 0)
        and all(
            directory["owner"] == root["user"] and directory["mode"] == "0700"
            for directory in (*directories, *joined, *apart)
        )
    )


def copy_is_where_programs_lie(known: Known) -> bool:
    root, path = known["secure_root"], str(known["stage"]["path"])
    own = f"{root['directories'][2]['path']}/{EXEC_ALLOW}"
    place = root["programs"]["path"] if "programs" in root else own
    within = path[len(place) :]
    return path.startswith(f"{place}/stage-") and within.count("/") == 2 and within[-1] != "/"


def copy_is_what_was_pinned(known: Known) -> bool:
    staged, joined = known["stage"], known["secure_root"].get("sandbox")
    return _is_copy(staged, known["validate"], known["header"]["host"]["user"]) and (
        joined is None or staged["sha256"] == joined["sha256"]
    )


def _is_copy(staged: Facts, pinned: Facts, user: int) -> bool:
    return bool(
        staged["pinned"] == staged["made_from"] == pinned["identity"]
        and staged["size"] == pinned["identity"]["size"]
        and staged["mode"] == "0500"
        and staged["compared"] is (staged["from_store"] and pinned["owner"] != user)
    )


def sidecars_are_what_was_pinned(known: Known) -> bool:
    staged, pinned = known["stage"].get("sidecars", []), known["validate"].get("sidecars", [])
    place = f"{os.path.dirname(str(known['stage']['path']))}/{SIDECARS}"
    return len(staged) == len(pinned) and all(
        copy["name"] == file["name"]
        and copy["path"] == f"{place}/{file['name']}"
        and _is_copy(copy, file, known["header"]["host"]["user"])
        for copy, file in zip(staged, pinned, strict=True)
    )


def policy_permits(known: Known) -> bool:
    options, outcome = known["header"]["options"], known["apply_policy"]["outcome"]
    if outcome == PolicyOutcome.ENFORCED:
        can_be = options["rootless"] is True and options["exec_policy"] != ExecPolicy.OFF
        return can_be and _allows_exactly_the_set(known)
    if options["require_exec_policy"]:
        return False
    return bool(
        outcome == (PolicyOutcome.UNAVAILABLE if options["rootless"] else PolicyOutcome.NOT_APPLICABLE)
    )


def _allows_exactly_the_set(known: Known) -> bool:
    """Whether the staged files, and nothing else where programs lie, can be executed. Runsc alone has no sidecars."""
    staged = known["stage"]
    if "sidecars" not in staged:
        return True
    place = os.path.dirname(os.path.dirname(staged["path"])) + "/"
    files = {staged["path"], *(sidecar["path"] for sidecar in staged["sidecars"])}
    return files == {path for path in known["apply_policy"]["allowed"] if f"{path}/".startswith(place)}


def bundle_is_unchanged(known: Known) -> bool:
    return bool(known["exec"]["bundle"] == known["header"]["bundle"])


def executes_the_staged_copy(known: Known) -> bool:
    argv, joined = known["exec"]["argv"], known["secure_root"].get("sandbox")
    return bool(
        argv[0] == known["stage"]["path"]
        and (joined is None or argv[1:3] == ["--root", joined["directories"][1]["path"]])
    )
