"""`list`: the containers below this root."""

from __future__ import annotations

import json

from engine.errors import Reason, UsageError, printable
from engine.oci.container import ContainerError
from engine.oci.flags import Kind, Table
from engine.oci.lookup import find_all
from engine.oci.request import Request, say
from engine.oci.state import describe

FLAGS: Table = {"format": Kind.VALUE, "quiet": Kind.SWITCH}
SHORT = {"f": "format", "q": "quiet"}

_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def main(request: Request) -> int:
    """Print a table, JSON, or with `--quiet` the ids. A container that cannot be read is named on stderr."""
    form = request.flags.value("format") or "table"
    if form not in ("table", "json", "text"):
        raise UsageError(f"--format is {form!r}", reason=Reason.USAGE, hint="give table or json")
    if request.arguments:
        raise UsageError("list takes no arguments", reason=Reason.USAGE, hint="see engine-oci --help")
    states = []
    for found in find_all(request):
        try:
            state = describe(found)
        except ContainerError as error:  # one that is damaged harms no other
            say(f"engine-oci: warning: {error}")
            continue
        if state is not None:
            states.append(state)
    if request.flags.has("quiet"):
        for state in states:
            print(state["id"])
    elif form == "json":
        print(json.dumps(states))
    else:
        rows = [[name.upper() for name in _COLUMNS]]
        rows += [[printable(str(state[name])) for name in _COLUMNS] for state in states]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        for row in rows:
            print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
