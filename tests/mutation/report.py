"""What mutation testing found: the kill rate of each file, and every survivor with the reason why it may live.

`./just mutants` runs mutmut over `engine/lifecycle` and `engine/linux` and then this. A survivor is known by its
function and by the lines that the mutant changes, as mutmut's numbers shift with each edit. The rates are kept in
`rates.json` and the reasons in `survivors.toml`: docs/mutants.md is made of the two, without another run.
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
#: Where mutmut leaves the mutated files, and beside each what became of its mutants.
RESULTS = CHECKOUT / "mutants" / "engine"
RATES = HERE / "rates.json"
REASONS = HERE / "survivors.toml"
PAGE = CHECKOUT / "docs" / "mutants.md"

#: Percent, of each file. Below it `./just mutants` fails.
REQUIRED = 90.0

#: mutmut's exit codes of a mutant that a test noticed: it failed, ran into the time limit, or broke the process, as one
#: does that lets a signal through which it was to hold.
_KILLED = frozenset({1, 2, 3, 24, 36, 152, 255, -9, -11, -15, -24, -29})
#: Of one that lives: the tests passed, or there is none that calls the function.
_ALIVE = frozenset({0, 5, 33})

_INTRODUCTION = f"""# Mutants of the code

`./just mutants` changes `engine/lifecycle` and `engine/linux` in one place at a time with
[mutmut](https://mutmut.readthedocs.io), and runs the unit tests that call the changed function. It fails if less
than {REQUIRED:.0f} % of the mutants of a file are killed, or if a survivor is not explained below. mutmut does not
change decorated functions or code outside functions, such as the table of the lifecycle;
[conformance](conformance.md) checks that. Mutants of the spec are in [the formal model](formal-model.md).

This page is made from `tests/mutation/rates.json` and `tests/mutation/survivors.toml`. A unit test checks that, and
that each line quoted below still exists.
"""


@dataclass(frozen=True, order=True, slots=True)
class Mutant:
    """A change to one function: the lines taken out and put in, each stripped and joined by a space."""

    function: str
    removed: str
    added: str

    def __str__(self) -> str:
        """As an entry of `survivors.toml`: a JSON string is a TOML string."""
        return json.dumps([self.function, self.removed, self.added], ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some survivors are no gap in the tests."""

    why: str
    survivors: tuple[Mutant, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """How many mutants one file has, and how many of them a test noticed."""

    mutants: int
    killed: int

    @property
    def percent(self) -> float:
        return 100 * self.killed / self.mutants


class IncompleteError(Exception):
    """mutmut did not come to its end, so its result says nothing."""


def read_outcomes(results: Path) -> dict[str, tuple[int, list[Mutant]]]:
    """Of each file: how many mutants mutmut made, and those that live. Raises `IncompleteError`."""
    outcomes = {}
    for meta in sorted(results.rglob("*.py.meta")):
        codes: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
        if not codes:
            continue
        file = str(meta.relative_to(results.parent)).removesuffix(".meta")
        if untried := [name for name, code in codes.items() if code not in _KILLED | _ALIVE]:
            raise IncompleteError(
                f"{file}: {len(untried)} mutants without a result, {untried[0]} the first of them "
                f"(exit code {codes[untried[0]]}); run ./just mutants to its end"
            )
        functions = dict(_functions(meta.with_suffix("")))
        alive = [_mutant(file, name, functions) for name, code in codes.items() if code in _ALIVE]
        outcomes[file] = len(codes), alive
    if not outcomes:
        raise IncompleteError(f"no result in {results}; run ./just mutants")
    return outcomes


def _functions(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each function of a mutated file, by the name that mutmut gave it, as its stripped lines."""
    text = path.read_text()
    lines = [line.strip() for line in text.splitlines()]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            yield node.name, lines[node.lineno - 1 : node.end_lineno]


def _mutant(file: str, key: str, functions: Mapping[str, Sequence[str]]) -> Mutant:
    """What the mutant mutmut calls `key` changes: everything from the first line that differs to the last."""
    name = key.rpartition(".")[2]
    original = name.rpartition("__mutmut_")[0]
    # mutmut writes `x_function` and `xǁClassǁmethod`.
    function = original.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    plain = function.rpartition(".")[2]
    before = [
        line.replace(f"{original}__mutmut_orig", plain) for line in functions[f"{original}__mutmut_orig"]
    ]
    after = [line.replace(name, plain) for line in functions[name]]
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    module = file.removesuffix(".py").replace("/", ".")
    return Mutant(f"{module}.{function}", " ".join(before), " ".join(after))


def read_reasons(path: Path) -> list[Reason]:
    """The survivors that are explained. Raises `KeyError`, `TypeError` and `ValueError` on a bad file."""
    return [
        Reason(entry["why"], tuple(Mutant(*survivor) for survivor in entry["survivors"]))
        for entry in tomllib.loads(path.read_text()).get("reason", [])
    ]


def read_rates(path: Path) -> dict[str, Rate]:
    """The rates of the last whole run."""
    return {file: Rate(**counts) for file, counts in json.loads(path.read_text()).items()}


def unexplained(alive: Sequence[Mutant], reasons: Sequence[Reason]) -> list[str]:
    """Where survivors and reasons differ, a line each. A mutant that is made twice is explained twice."""
    found = Counter(alive)
    explained = Counter(mutant for reason in reasons for mutant in reason.survivors)
    return [
        *(f"lives, and nobody says why: {mutant}" for mutant in sorted((found - explained).elements())),
        *(
            f"is dead or gone, and still explained: {mutant}"
            for mutant in sorted((explained - found).elements())
        ),
    ]


def below(rates: Mapping[str, Rate]) -> list[str]:
    """The files of which too few mutants are killed, a line each."""
    return [
        f"{file}: {rate.percent:.1f} % of the mutants are killed; {REQUIRED:.0f} % must be"
        for file, rate in rates.items()
        if rate.percent < REQUIRED
    ]


def table(rates: Mapping[str, Rate], style: str) -> str:
    """The table of kill rates in one of tabulate's styles."""
    total = Rate(sum(rate.mutants for rate in rates.values()), sum(rate.killed for rate in rates.values()))
    rows = [
        (file, rate.mutants, rate.killed, f"{rate.percent:.1f} %")
        for file, rate in (*rates.items(), ("all", total))
    ]
    return tabulate(
        rows, headers=("file", "mutants", "killed", "rate"), tablefmt=style, colalign=("left", *["right"] * 3)
    )


def page(rates: Mapping[str, Rate], reasons: Sequence[Reason]) -> str:
    """docs/mutants.md."""
    parts = [_INTRODUCTION, "## Killed", table(rates, "github"), "## Survivors, and why they are harmless"]
    for reason in reasons:
        parts += [reason.why.strip(), "\n".join(map(_item, reason.survivors))]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _item(mutant: Mutant) -> str:
    """A survivor in a list; two backquotes hold a line that has one."""
    became = f"became `` {mutant.added} ``" if mutant.added else "was dropped"
    return f"- `{mutant.function}`: `` {mutant.removed} `` {became}"


def main() -> int:
    """Print the rates and what must be mended; where there is nothing, write the page and its rates."""
    try:
        outcomes, reasons = read_outcomes(RESULTS), read_reasons(REASONS)
    except IncompleteError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    rates = {file: Rate(made, made - len(alive)) for file, (made, alive) in outcomes.items()}
    print(table(rates, "simple"))
    faults = below(rates) + unexplained([one for _, alive in outcomes.values() for one in alive], reasons)
    for fault in faults:
        print(f"mutants: {fault}", file=sys.stderr)
    if faults:
        return 1
    counts = {file: {"mutants": rate.mutants, "killed": rate.killed} for file, rate in rates.items()}
    RATES.write_text(json.dumps(counts, indent=2) + "\n")
    PAGE.write_text(page(rates, reasons))
    return 0


if __name__ == "__main__":
    sys.exit(main())
