"""Render self-contained pages from the templates; nothing in a trace can become markup.

Every value in a template goes through `printable` and is escaped automatically. Each page's Content-Security-Policy
also forbids all scripts except ours and all requests.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from engine import __version__
from engine.audit.extra import require
from engine.errors import Reason, hint_for, printable
from engine.linux.regular_files import write_output
from engine.verify.evidence import ReportError

TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


def page(
    template: str, values: Mapping[str, Any], *, script: str | None = None, now: datetime | None = None
) -> bytes:
    """Render `template` with `values`. `script` names the only script that may run in the page."""
    markup = require("markupsafe", "make reports").Markup
    code = "" if script is None else _file(script)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = "'none'" if script is None else f"'sha256-{digest}'"
    made: str = (
        _environment()
        .get_template(template)
        .render(
            **values,
            style=markup(_file("style.css")),
            script=markup(code),
            policy=markup(
                "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
                f"script-src {allowed}"
            ),
            version=__version__,
            now=now or datetime.now(UTC),
        )
    )
    return made.encode()


@cache
def _environment() -> Any:
    jinja2, markup = require("jinja2", "make reports"), require("markupsafe", "make reports").Markup
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, markup) else printable(str(value)),
    )
    environment.filters["when"] = when
    environment.filters["duration"] = duration
    return environment


def _file(name: str) -> str:
    with open(os.path.join(TEMPLATES, name), encoding="utf-8") as file:
        return file.read()


def when(moment: datetime) -> str:
    """The time in UTC, to the second."""
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """The time in its most readable unit, to three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if abs(seconds) * factor >= 1:
            return f"{seconds * factor:.3g} {unit}" if abs(seconds) < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e6:.0f} µs"


def write(path: str, content: bytes) -> None:
    """Write the page atomically; an earlier one is replaced. Raises `ReportError`."""
    try:
        write_output(path, content, mode=0o600)
    except OSError as error:
        hint = hint_for(error, "with --output, give a file in a directory that you can write")
        raise ReportError(f"{path!r}: {error.strerror}", reason=Reason.FAILURE, hint=hint) from None
