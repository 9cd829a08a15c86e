"""`engine check-bundle`: what of a bundle this runsc will not do as asked, without running it."""

from __future__ import annotations

import json
import os

from engine.cli.command import add_choice, add_command, columns
from engine.errors import printable
from engine.options import Network, RunOptions, runsc_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "show what of a bundle this runsc will not do as asked, without running it"
    parser = add_command(commands, "check-bundle", _check, text)
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle's directory")
    add_choice(parser, "--network", Network, Network.NONE, "as for run")
    parser.add_argument("--rootless", action="store_true", help="as for run: without cgroups")
    parser.add_argument("--ignore-cgroups", action="store_true", help="as for run")
    parser.add_argument("--runsc", metavar="PATH", help="as for run")
    parser.add_argument(
        "--runsc-flag",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="as for run; may be repeated",
    )
    parser.add_argument(
        "--require-enforced", action="store_true", help="refuse, with 125, where there is any such thing"
    )


def _check(options: argparse.Namespace) -> int:
    from engine.bundle.bundle import open_bundle
    from engine.lifecycle.trusted_runsc import find_runsc
    from engine.lifecycle.validate import hold_against

    chosen = RunOptions(
        container_id="check",
        network=Network(options.network),
        rootless=options.rootless,
        ignore_cgroups=options.ignore_cgroups,
        runsc=options.runsc,
        require_enforced=options.require_enforced,
        runsc_flags=runsc_flags(options.runsc_flag),
    )
    with open_bundle(options.bundle) as bundle:
        runsc = hold_against(find_runsc(options.runsc, os.environ), bundle, chosen)
        try:
            found = _found(bundle, chosen, runsc)
        finally:
            runsc.close()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_lines(found, columns())))
    return 0


def _found(bundle: Any, options: RunOptions, runsc: Any) -> dict[str, Any]:
    from engine.enforcement.asks import surprises, unasked
    from engine.enforcement.judge import has_cgroups, has_empty_tmp
    from engine.enforcement.table import SURPRISES, UNASKED

    empty = has_empty_tmp(bundle.rootfs_directory)
    cgroups = has_cgroups(rootless=options.rootless, ignore_cgroups=options.ignore_cgroups)
    names = ("name", "says", "danger", "becomes", "how", "places")
    return {
        "runsc": runsc.runsc.path,
        "taken_for": runsc.capabilities.generation,
        "not_as_asked": [{name: getattr(each, name) for name in names} for each in runsc.unenforced],
        "surprises": [
            SURPRISES[word] for word in surprises(bundle.config, has_empty_tmp=empty, has_cgroups=cgroups)
        ],
        "added": [
            UNASKED[word]
            for word in unasked(bundle.config, has_empty_tmp=empty, runsc_flags=options.runsc_flags)
        ],
    }


def _lines(found: Mapping[str, Any], width: int) -> Iterator[str]:
    from textwrap import wrap

    def wrapped(text: str) -> Iterator[str]:
        yield from wrap(
            printable(text),
            max(width, 40),
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )

    yield printable(f"{found['runsc']}, taken for that of {found['taken_for']}")
    yield (
        "not done as asked, by danger:" if found["not_as_asked"] else "all that it asks for is done as asked"
    )
    for each in found["not_as_asked"]:
        how = f": {each['how']}" if each["how"] else ""
        yield from wrapped(
            f"{each['danger']} {each['says']} ({each['becomes']}){how}; in {', '.join(each['places'])}"
        )
    for title, texts in (("beware:", found["surprises"]), ("added by runsc, unasked:", found["added"])):
        if texts:
            yield title
        for text in texts:
            yield from wrapped(text)
