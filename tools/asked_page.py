"""docs/asked-and-enforced.md, written from `engine/enforcement/known/*.toml` by ./just compile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from engine.enforcement.known import DIRECTORY, Row, about, rows, sentences
from engine.runsc.capabilities import SEEN

PAGE = Path(__file__).parents[1] / "docs" / "asked-and-enforced.md"

_HEADING = (
    f"| name | asked for | {' | '.join(SEEN)} | what happens instead | what the program is told "
    "| the specification |"
)
_INTRODUCTION = """\
# Asked for, and enforced

What runsc makes of each thing that `config.json` can ask for. The OCI runtime specification says that a runtime must
fail where it cannot do what is asked (runtime.md, Create). runsc often goes on, and says nothing.

- A run says in one line what is not done, in order of danger. The trace has each by the name below, and
  `engine trace verify` computes it again. `engine check-bundle BUNDLE` says it without a run, and how.
- `engine run --require-enforced BUNDLE` refuses such a bundle, but for the last danger below.
- `engine survey` tries it with the runsc of this machine, and says where this page is wrong.

This page is written by `./just compile` from `engine/enforcement/known/`; one file there is one section here.

## Which runsc

"""
_WORDS = """
**enforced**: as asked. **otherwise**: something else happens. **ignored**: nothing happens, and the run goes on.
**refused**: the run ends with 128. *no cgroup*: what becomes of it with `--ignore-cgroups`, or with `--rootless` by
an ordinary user.

## Dangers

"""


def text() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    known = about()
    yield from _INTRODUCTION.splitlines()
    yield "| column | a runsc is taken for it by | seen with |"
    yield "|---|---|---|"
    for name in SEEN:
        each = known["runsc"][name]
        yield f"| {name} | {each['sign']} | {each['seen_with']} |"
    yield from _WORDS.splitlines()
    yield "| danger | what is missing | why it is there in the order |"
    yield "|---|---|---|"
    for number, each in known["danger"].items():
        yield f"| {number} | {each['what']} | {each['why']} |"
    concerns = list(dict.fromkeys(row.concern for row in sorted(rows(), key=lambda row: row.concern)))
    for concern in concerns:
        yield ""
        yield f"## {concern.replace('-', ' ').capitalize()}"
        yield ""
        yield _about(concern)
        yield ""
        yield _HEADING
        yield f"|{'---|' * (5 + len(SEEN))}"
        for row in rows():
            if row.concern == concern:
                yield _row(row)
    for title, file in (("Added unasked", "unasked"), ("Enforced, and a surprise", "surprises")):
        yield ""
        yield f"## {title}"
        yield ""
        yield from (f"- {says}." for _, says in sentences(file))


def _about(concern: str) -> str:
    """The first line of the concern's file."""
    return (Path(DIRECTORY) / f"{concern}.toml").read_text().partition("\n")[0].removeprefix("# ")


def _row(row: Row) -> str:
    asked = f"`{row.field}`: {row.value} (danger {row.danger})"
    cells = [
        f"`{row.name}`",
        asked,
        *map(_verdict, row.becomes),
        _instead(row),
        row.inside,
        row.specification,
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _verdict(word: str) -> str:
    return word if word == "enforced" else f"**{word}**"


def _instead(row: Row) -> str:
    """What happens instead, once for runscs of which it is the same."""
    told: dict[str, list[str]] = {}
    for runsc, how in zip(SEEN, row.how, strict=True):
        if how:
            told.setdefault(how, []).append(runsc)
    parts = [how if len(told) == 1 else f"{', '.join(where)}: {how}" for how, where in told.items()]
    if row.without_cgroups:
        parts.append(f"no cgroup: {row.without_cgroups}")
    return re.sub(r"\s+", " ", "; ".join(parts))
