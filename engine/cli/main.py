"""The command line: exit codes, and the one line for a failure.

Exit codes: the container's own after the hand-off, 125 if the engine refuses (127 and 126 if the bundle's program
cannot be found or executed), 2 for wrong usage. stdout belongs to the container, so during `run` the engine writes only
to stderr.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Iterator, Sequence

from engine import __doc__ as what_it_is
from engine import __version__
from engine.cli import command
from engine.errors import as_refusal, printable, stdout_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from engine.linux.streams import Stdout

INTERRUPTED = 130
#: As a shell has it for a program that SIGPIPE ended.
READER_GONE = 128 + 13
_PRINTING_RUNS = frozenset({"-h", "--help", "--dry-run", "--detach"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those after the program's name. Returns the exit code."""
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to clean up
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            from engine.linux.streams import forget_unwritten

            forget_unwritten()


def _main(given: Sequence[str]) -> int:
    debug = as_json = False
    answer, error, ended = 0, None, None
    stdout = _stdout(given)
    try:
        options = _parser(given).parse_args(given)
        debug, as_json = options.debug, options.json
        if not options.becomes_runsc:
            gc.enable()  # engine.__main__ turned it off
            if (
                signal.getsignal(signal.SIGINT) is signal.SIG_DFL
            ):  # raises KeyboardInterrupt, so that commands clean up
                signal.signal(signal.SIGINT, signal.default_int_handler)
        answer = int(options.command(options))
    except SystemExit as end:
        if end.code:
            raise
        ended = end
    except Exception as raised:  # no traceback for users
        error = raised
    if error is None or isinstance(error, OSError):
        failure = stdout.failure() if stdout is not None else None
        if isinstance(failure, BrokenPipeError):
            return READER_GONE
        error = error if failure is None else stdout_refusal(failure)
    if error is None:
        if ended is not None:
            raise ended
        return answer
    refusal = as_refusal(error)
    if debug:
        import traceback

        command.say("".join(traceback.format_exception(refusal)).rstrip("\n"))
    if as_json:
        said = {"step": refusal.step, "reason": refusal.reason, "what": refusal.what, "hint": refusal.hint}
        run = {"id": refusal.container, "trace": printable(refusal.trace)} if refusal.trace else None
        command.say(json.dumps({"refused": said, **({"run": run} if run else {})}))
    else:
        command.say(f"engine: {refusal}")
    return refusal.exit_code


def _stdout(given: Sequence[str]) -> Stdout | None:
    """stdout for a command that prints; a run leaves it to the container, and starts sooner without."""
    if given[:1] == ["run"] and not _PRINTING_RUNS.intersection(given):
        return None
    from engine.linux.streams import Stdout

    return Stdout()


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = command.Parser(
        prog="engine",
        description=what_it_is,
        epilog=command.EXIT_CODES,
        allow_abbrev=False,
        formatter_class=command.Formatter,
    )
    parser.add_argument("--version", action="version", version=f"engine {__version__}")
    # With `prog`, argparse imports less.
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog=parser.prog)
    for add in _commands(given):
        add(commands)
    return parser


def _commands(given: Sequence[str]) -> Iterator[Callable[[Any], None]]:
    """The functions that add the commands to the parser: only `run`'s if that is given, for a quick start."""
    from engine.cli import run

    yield run.add
    if given[:1] == ["run"]:
        return
    from engine.cli import check, check_bundle, diagram, doctor, report, survey, trace
    from engine.cli import gc as collect

    for module in (check_bundle, collect, check, report, trace, diagram, doctor, survey):
        yield module.add
