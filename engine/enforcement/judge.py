"""A bundle held against what is known: what this runsc will not do of what it asks for.

A run imports this, so the data is compiled: `engine/enforcement/table.py`, by `./just compile`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from engine.enforcement.asks import Ask, asks, surprises
from engine.enforcement.table import BY_WORD, ROWS
from engine.linux.namespaces import unmapped_uid
from engine.linux.openat2 import open_in_root
from engine.options import RunOptions
from engine.runsc.capabilities import SEEN, Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from engine.bundle.bundle import Bundle
    from engine.bundle.grants import Source

#: From this danger on nothing is warned of, nor refused.
UNSEEN = 5
ENFORCED = "enforced"
#: Characters of places in a warning, for each row.
_MAX_PLACES = 120


class Unenforced:
    """A row of the table that a bundle asks for and a runsc does not do as asked.

    `name`: of the row. `becomes`: `otherwise`, `ignored` or `refused`. `how`: what happens instead, in words; may be
    empty. `places`: where the bundle asks for it. `by_default`: managers ask for it without being told to.
    """

    __slots__ = ("becomes", "by_default", "danger", "how", "name", "places", "says")

    def __init__(
        self, name: str, says: str, danger: int, becomes: str, how: str, *, by_default: bool
    ) -> None:
        self.name: Final = name
        self.says: Final = says
        self.danger: Final = danger
        self.becomes: Final = becomes
        self.how: Final = how
        self.by_default: Final = by_default
        self.places: Final[list[str]] = []

    def __str__(self) -> str:
        where = ", ".join(place for place in self.places if not place.startswith("$"))
        where = where if len(where) <= _MAX_PLACES else f"{where[:_MAX_PLACES]}…"
        return f"{self.says}{f' {where}' if where else ''} ({self.becomes})"


def unenforced(
    config: Mapping[str, Any],
    sources: Mapping[int, Source],
    options: RunOptions,
    able: Capabilities,
    joins_a_pod: bool | None = None,
) -> tuple[Unenforced, ...]:
    """What of the valid `config`, whose bind mounts have these `sources`, this runsc will not do as asked.

    `joins_a_pod`: as in `asks`.
    """
    kinds = {index: source.kind for index, source in sources.items()}
    return judge(
        asks(config, kinds, options.network, joins_a_pod),
        able.generation,
        has_cgroups=has_cgroups(rootless=options.rootless, ignore_cgroups=options.ignore_cgroups),
        runsc_flags=options.runsc_flags,
    )


def is_enforced(word: str, able: Capabilities) -> bool:
    """Whether that runsc does as asked where a bundle asks for it by this `word`."""
    return word in BY_WORD and ROWS[BY_WORD[word]][3][SEEN.index(able.generation)] == ENFORCED


def mount_options(able: Capabilities) -> set[str]:
    """The options that this runsc applies to every kind of mount that a bundle can give them to."""
    options: dict[str, list[bool]] = {}
    for word in BY_WORD:
        family, has_option, name = word.partition(".option=")
        if has_option and family in ("bind", "tmpfs") and not name.endswith(("=", "*", "%")):
            options.setdefault(name, []).append(is_enforced(word, able))
    return {name for name, applied in options.items() if all(applied)}


def has_cgroups(*, rootless: bool, ignore_cgroups: bool) -> bool:
    """Whether runsc makes the container's cgroup; rootless and without the host's root it drops it, and goes on.

    Raises `OSError` where /proc is not mounted.
    """
    return not ignore_cgroups and (not rootless or (os.geteuid() == 0 and unmapped_uid() is None))


_SECCOMP = frozenset({"--oci-seccomp=true"})
#: What every runsc does as asked with one of these flags, and not otherwise.
_BY_FLAG: Mapping[str, frozenset[str]] = {
    "linux.seccomp": _SECCOMP,
    "process.capabilities=CAP_NET_RAW": frozenset({"--net-raw=true"}),
    "bind.kind=socket": frozenset({"--host-uds=open", "--host-uds=all"}),
}
#: What counts only with one of these flags.
ONLY_WITH: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("linux.seccomp.exec", "linux.seccomp.action", "linux.seccomp.errnoRet"), _SECCOMP),
    "bind.writable": frozenset({"--overlay2=all:self", "--overlay2=all:memory"}),
}


def judge(
    asked: Iterable[Ask], generation: str, *, has_cgroups: bool, runsc_flags: Collection[str] = ()
) -> tuple[Unenforced, ...]:
    """What of these words a runsc of that generation does not do as asked, in order of danger.

    `runsc_flags`: those that are passed on.
    """
    column = SEEN.index(generation)
    found: dict[int, Unenforced] = {}
    for word, place in asked:
        if word in ONLY_WITH:
            if ONLY_WITH[word].isdisjoint(runsc_flags):
                continue
        elif runsc_flags and word in _BY_FLAG and not _BY_FLAG[word].isdisjoint(runsc_flags):
            continue
        number = BY_WORD.get(word)
        if number is None:
            number = BY_WORD.get(f"{word.partition('=')[0]}=*")
            if number is None:
                continue
        if (known := found.get(number)) is None:
            name, says, danger, becomes, how, without_cgroups, by_default = ROWS[number]
            if not has_cgroups and without_cgroups:
                verdict, told = without_cgroups, "no cgroup is made"
            else:
                verdict, told = becomes[column], how[column]
            if verdict == ENFORCED:
                continue
            known = Unenforced(name, says, danger, verdict, told, by_default=by_default)
            found[number] = known
        if place not in known.places:
            known.places.append(place)
    return tuple(found[number] for number in sorted(found))  # rows are in order of danger


def for_state(found: Sequence[Unenforced]) -> dict[str, str]:
    """What `state` shows of it; and what `start` says, unless managers ask for all of it by themselves."""
    found = [each for each in found if each.danger < UNSEEN]
    if not found:
        return {}
    from engine.state.record import ENFORCEMENT, WARNING

    shown = {ENFORCEMENT: ", ".join(f"{each.name} {each.becomes}" for each in found)}
    text = warning(found)
    if text is not None and any(not each.by_default for each in found):
        shown[WARNING] = text
    return shown


def warnings(bundle: Bundle, options: RunOptions, found: Sequence[Unenforced]) -> Iterator[str]:
    """What a run says of it: one line on what is not done as asked, and one on each known surprise."""
    if text := warning(found):
        yield text
    resources = bundle.config.get("linux", {}).get("resources", {})
    if not resources.keys().isdisjoint(("memory", "pids")):
        from engine.enforcement.table import SURPRISES

        cgroups = has_cgroups(rootless=options.rootless, ignore_cgroups=options.ignore_cgroups)
        empty = has_empty_tmp(bundle.rootfs_directory)
        for word in surprises(bundle.config, has_empty_tmp=empty, has_cgroups=cgroups):
            yield SURPRISES[word]


def has_empty_tmp(rootfs: int) -> bool:
    """Whether the root file system open on `rootfs` has no file in /tmp, over which runsc then mounts a tmpfs."""
    try:
        descriptor = open_in_root(rootfs, "tmp")
    except OSError:
        return True
    try:
        return not os.listdir(f"/proc/self/fd/{descriptor}")
    except OSError:
        return False
    finally:
        os.close(descriptor)


def warning(found: Sequence[Unenforced]) -> str | None:
    """One line on what is not done as asked; None if nothing is worth a word."""
    said = [str(each) for each in found if each.danger < UNSEEN]
    return (
        f"this runsc will not do as asked: {', '.join(said)}; engine check-bundle says how" if said else None
    )
