"""`engine diagram`: draw the lifecycle, its steps, the spec, or one run."""

from __future__ import annotations

import os
import sys

from engine.cli.command import add_command, wrong_usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "diagram", _diagram, "draw the lifecycle, its steps, the spec, or one run")
    parser.add_argument(
        "subject",
        nargs="?",
        choices=("lifecycle", "steps", "spec"),
        default="lifecycle",
        metavar="lifecycle|steps|spec",
        help="the machine with its refusals, what each step checks, or the states that TLC searched",
    )
    parser.add_argument(
        "--format",
        choices=("svg", "png", "pdf", "dot", "mermaid"),
        metavar="svg|png|pdf|dot|mermaid",
        help="the format (default: by the ending of --output, else svg)",
    )
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: stdout)")
    parser.add_argument("--trace", metavar="FILE", help="draw the run of this trace")


def _diagram(options: argparse.Namespace) -> int:
    from engine.audit.diagram import Subject, picture
    from engine.audit.picture import Format, write

    suffix = os.path.splitext(options.output or "")[1][1:].lower()
    form = Format(options.format or (suffix if suffix in set(Format) else Format.SVG))
    subject = Subject(options.subject)
    if options.trace is not None and subject is not Subject.LIFECYCLE:
        wrong_usage(f"--trace goes with the lifecycle, not with {subject}")
    if form is Format.MERMAID and subject is not Subject.LIFECYCLE:
        wrong_usage(f"{subject} has no Mermaid form: use svg, png, pdf or dot")
    if form.is_binary and options.output is None and sys.stdout.isatty():
        wrong_usage(f"a terminal cannot show {form}: give a file with --output, or redirect")
    run = None
    if options.trace is not None:
        from engine.audit.walk import read_walk

        run = read_walk(options.trace)
    drawn = picture(subject, run).render(form)
    if options.output is not None:
        write(drawn, options.output)
    else:
        sys.stdout.buffer.write(drawn)
    return 0
