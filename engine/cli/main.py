"""The command line: the only place that parses arguments, prints, and picks exit codes.

Exit codes: the container's own after the hand-off, 125 when the engine refuses, 2 for wrong usage. stdout
belongs to the container, so all that the engine says during `run` goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

from engine import __doc__ as what_it_is
from engine import __version__
from engine.errors import as_refusal, printable
from engine.options import ExecPolicy, Network, Platform, RunOptions, check_container_id
from engine.quick import import_transitions
from engine.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from engine.verify.signature import Signers
    from engine.verify.workers import Workers

_EXIT_CODES = (
    "exit codes: 125 the engine refused; 2 wrong usage; 130 interrupted; run: the container's own after the hand-off; "
    "check: 1 a property fails, 3 TLC could not run; trace verify: 1 a trace differs or its signature does not "
    "verify, 3 none does but one could not be read"
)
REFUSED = 125
UNREADABLE = 3
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` are those after the program's name. Answers with the exit code."""
    debug = as_json = False
    try:
        given = sys.argv[1:] if arguments is None else arguments
        options = _parser(given).parse_args(given)
        debug, as_json = options.debug, options.json
        if options.command is not _run:
            gc.enable()  # engine.__main__ turned it off
        if options.command is not _run and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # these clean up by leaving their blocks
        answer = int(options.command(options))
        sys.stdout.flush()
    except SystemExit:
        _forget_stdout()
        raise
    except BrokenPipeError:
        _forget_stdout()  # whoever read our output has left
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # a fault of ours must not reach the user as a traceback
        refusal = as_refusal(error)
    else:
        return answer
    _forget_stdout()
    if debug:
        import traceback

        _say("".join(traceback.format_exception(refusal)).rstrip("\n"))
    if as_json:
        said = {"step": refusal.step, "what": refusal.what, "remedy": refusal.remedy}
        _say(json.dumps({"refused": said}))
    else:
        _say(f"engine: {refusal}")
    return refusal.exit_code


def _say(line: str) -> None:
    """Say it on stderr. Where that is closed, broken or full nobody can be told, and nothing depends on it."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere: what stdout could not take has been said, or has no reader."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _say_over(line: str) -> None:
    """Say it on the terminal in the place of what was said so before."""
    with contextlib.suppress(OSError):
        print(f"\r\x1b[K{line[:100]}", end="", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def _age(text: str) -> int:
    """So many seconds. Raises `ArgumentTypeError`."""
    seconds = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    number, unit = text[:-1], text[-1:]
    if unit not in seconds or not (number.isascii() and number.isdecimal() and 0 < int(number) < 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no age: give a number and m, h, d or w, as in 30d")
    return int(number) * seconds[unit]


class _Formatter(argparse.HelpFormatter):
    """As argparse's, which makes one for each option that is added, without an import of `shutil` for the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """How wide the terminal is, environ(7); 80 where there is none."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size().columns or 80
    except OSError:
        return 80


class _Parser(argparse.ArgumentParser):
    """As argparse's, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def _parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="engine",
        description=what_it_is,
        epilog=_EXIT_CODES,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"engine {__version__}")
    # With `prog` argparse need not work it out, for which it imports half of what handles files.
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog=parser.prog)
    _add_run(commands)
    if given[:1] != ["run"]:  # a run does not wait for the options of the others to be put together
        _add_others(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = _command(commands, "run", _run, "run an OCI bundle under runsc")
    run.add_argument("bundle", metavar="BUNDLE", help="the bundle's directory")
    run.add_argument("--id", help="the container's id (default: 32 random hexadecimal digits)")
    _choice(run, "--network", Network, Network.NONE, "the container's network")
    _choice(run, "--platform", Platform, Platform.AUTO, "how the Sentry intercepts system calls")
    run.add_argument("--rootless", action="store_true", help="let runsc make its own user namespace")
    run.add_argument("--ignore-cgroups", action="store_true", help="runsc sets up no cgroups")
    _choice(run, "--exec-policy", ExecPolicy, ExecPolicy.AUTO, "what the rootless supervisor may execute")
    run.add_argument(
        "--require-exec-policy", action="store_true", help="refuse to run when that policy is not enforced"
    )
    run.add_argument("--runsc", metavar="PATH", help="the runsc to run (default: a trusted system path)")
    run.add_argument("--trace", metavar="FILE", help="keep the trace in this new file")
    run.add_argument(
        "--detach", action="store_true", help="run it as a service of systemd's, with its journal"
    )
    run.add_argument("--dry-run", action="store_true", help="print what runsc would be given; touch nothing")


def _add_others(commands: Any) -> None:
    collect = _command(commands, "gc", _gc, "remove what finished containers left under the artifact base")
    traces = collect.add_mutually_exclusive_group()
    traces.add_argument("--keep-traces", action="store_true", help="leave the traces where they are")
    traces.add_argument(
        "--traces-older-than",
        type=_age,
        metavar="AGE",
        help="leave the younger traces, and remove the older, also of managers' containers: 90m, 12h, 30d, 8w",
    )

    check = _command(
        commands, "check", _check, "check the specs with TLC: every property, every reachable state"
    )
    check.add_argument("models", nargs="*", metavar="MODEL", help="only these models (default: all)")
    check.add_argument("--mutants", action="store_true", help="also that each mutant of the spec is caught")
    check.add_argument(
        "--jar", metavar="FILE", help="this tla2tools.jar (default: TLA2TOOLS_JAR, then the package's)"
    )
    check.add_argument("--graph", metavar="FILE", help="save the state graph of the model Lifecycle here")
    check.add_argument(
        "--memory", type=_positive, default=1024, metavar="MIB", help="each run's heap (default: 1024)"
    )
    check.add_argument(
        "--time", type=_positive, default=600, metavar="SECONDS", help="each run's limit (default: 600)"
    )

    report = _command(commands, "report", _report, "write the audit report of one run, or of many")
    report.add_argument(
        "files", nargs="*", metavar="FILE", help="a run's trace; several are reported on as a fleet"
    )
    report.add_argument("--traces", metavar="DIR", help="report on every *.jsonl beneath DIR, as a fleet")
    report.add_argument(
        "--check", metavar="FILE", help="what engine check --mutants --json said, for one run's report"
    )
    report.add_argument(
        "--output", metavar="FILE", default="report.html", help="where to (default: report.html)"
    )
    report.add_argument(
        "--runs",
        action="store_true",
        help="a FILE has the traces of many runs, one after the other: report on them as a fleet",
    )
    _signers(report)
    _workers(report)

    trace = commands.add_parser(
        "trace",
        help="check the traces of runs, and sign them",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    of_traces = trace.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verify = _command(
        of_traces, "verify", _trace_verify, "check traces line by line against the spec and their chain"
    )
    verify.add_argument("files", nargs="+", metavar="FILE", help="a trace; - is standard input")
    verify.add_argument(
        "--runs", action="store_true", help="a FILE has the traces of many runs, one after the other"
    )
    verify.add_argument(
        "--complete", action="store_true", help="an incomplete trace counts as one that differs"
    )
    _signers(verify)
    _workers(verify)
    sign = _command(of_traces, "sign", _sign, "sign traces; each signature is a new file beside its trace")
    sign.add_argument("files", nargs="+", metavar="FILE", help="a trace")
    sign.add_argument(
        "--key", metavar="KEY", required=True, help="an unencrypted private key that only its owner can read"
    )

    diagram = _command(commands, "diagram", _diagram, "draw the lifecycle, its steps or the spec, or one run")
    diagram.add_argument(
        "subject",
        nargs="?",
        choices=("lifecycle", "steps", "spec"),
        default="lifecycle",
        metavar="lifecycle|steps|spec",
        help="the machine with its refusals, what each step checks, or the spec's states folded along it",
    )
    diagram.add_argument(
        "--format",
        choices=("svg", "png", "pdf", "dot", "mermaid"),
        metavar="svg|png|pdf|dot|mermaid",
        help="what to draw it as (default: as FILE ends, else svg)",
    )
    diagram.add_argument("--output", metavar="FILE", help="write it there (default: stdout)")
    diagram.add_argument("--trace", metavar="FILE", help="draw the run of this trace over the lifecycle")

    _command(commands, "doctor", _doctor, "show what is installed here, what it enables, what is missing")


def _command(commands: Any, name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--json", action="store_true", help="say it as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(command=run)
    return parser


def _signers(parser: argparse.ArgumentParser) -> None:
    """Whose signatures count."""
    parser.add_argument(
        "--key", metavar="PUB", help="traces must be signed with this public key's private half"
    )
    parser.add_argument(
        "--signers", metavar="FILE", help="... by --identity, as this OpenSSH allowed_signers file knows it"
    )
    parser.add_argument("--identity", metavar="NAME", help="a principal of the --signers file")


def _workers(parser: argparse.ArgumentParser) -> None:
    """Who does the work."""
    parser.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="share it among N processes (default: 1)"
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="share it among the workers of this Dask scheduler, which have the same files",
    )


def _choice(parser: argparse.ArgumentParser, flag: str, kind: Any, default: Any, text: str) -> None:
    names = [str(member) for member in kind]
    parser.add_argument(
        flag,
        choices=names,
        default=str(default),
        metavar="|".join(names),
        help=f"{text} (default: {default})",
    )


def _run(options: argparse.Namespace) -> int:
    import_transitions()
    from engine.bundle.bundle import open_bundle
    from engine.lifecycle.runner import plan, run

    if options.id is not None:
        check_container_id(options.id)
    if options.dry_run and options.trace is not None:
        _parser().error("--dry-run writes nothing, so --trace has no place in it")
    if options.dry_run and options.detach:
        _parser().error("--dry-run runs nothing, so --detach has no place in it")
    chosen = RunOptions(
        container_id=options.id if options.id is not None else os.urandom(16).hex(),
        network=Network(options.network),
        platform=Platform(options.platform),
        rootless=options.rootless,
        ignore_cgroups=options.ignore_cgroups,
        exec_policy=ExecPolicy(options.exec_policy),
        require_exec_policy=options.require_exec_policy,
        runsc=options.runsc,
    )
    bundle = open_bundle(options.bundle)
    if options.detach:
        return _detach(bundle.path, chosen, options)
    if options.dry_run:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as the bytes it is
        planned = plan(bundle, chosen, os.environ)
        if options.json:
            print(json.dumps({"argv": planned.argv, "environment": planned.environment}, indent=2))
        else:
            import shlex

            print("\n".join(f"{name}={shlex.quote(value)}" for name, value in planned.environment.items()))
            print(shlex.join(planned.argv))
        return 0

    def warn(text: str) -> None:
        _say(json.dumps({"warning": text}) if options.json else f"engine: warning: {printable(text)}")

    return run(bundle, chosen, os.environ, trace_path=options.trace, warn=warn)


def _detach(bundle: str, chosen: RunOptions, options: argparse.Namespace) -> int:
    """Start the same run as a service, and say which."""
    from engine.cli.detach import start

    arguments = [bundle, "--id", chosen.container_id]
    for flag, value in chosen.facts().items():
        name = f"--{flag.replace('_', '-')}"
        if value is True:
            arguments.append(name)
        elif isinstance(value, str):
            arguments += [name, os.path.abspath(value) if flag == "runsc" else value]
    if options.trace is not None:
        arguments += ["--trace", os.path.abspath(options.trace)]
    unit = start(chosen.container_id, arguments, os.environ)
    print(json.dumps({"id": chosen.container_id, "unit": unit}) if options.json else chosen.container_id)
    if not options.json:
        _say(
            f"engine: its output is in the journal: journalctl {'' if os.geteuid() == 0 else '--user '}-u {unit}"
        )
    return 0


def _gc(options: argparse.Namespace) -> int:
    from engine.state.gc import collect

    found = collect(os.environ, keep_traces=options.keep_traces, traces_older_than=options.traces_older_than)
    if options.json:
        print(
            json.dumps(
                {
                    "base": found.base,
                    "removed": found.removed,
                    "alive": found.alive,
                    "foreign": found.foreign,
                    "failed": [{"path": path, "why": why} for path, why in found.failed],
                },
                indent=2,
            )
        )
    else:
        for verb, paths in (("removed", found.removed), ("alive, left", found.alive)):
            for path in paths:
                print(f"{verb}: {printable(path)}")
        for path in found.foreign:
            print(f"not the engine's, left: {printable(path)}")
    for path, why in found.failed:
        _say(f"engine: gc: {printable(path)!r}: {why}; remove it by hand")
    return REFUSED if found.failed else 0


def _check(options: argparse.Namespace) -> int:
    from engine.spec import render
    from engine.spec.checker import check
    from engine.spec.tlc import Limits

    # So that TLC's processes are ended on the way out, as they are for any other exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    show = sys.stderr is not None and sys.stderr.isatty()
    result = check(
        jar=options.jar,
        models=options.models or None,
        mutants=options.mutants,
        graph=options.graph,
        limits=Limits(memory=options.memory, seconds=float(options.time)),
        progress=(lambda now: _say_over(render.progress_line(now))) if show else None,
    )
    if show:
        _say_over("")
    print(json.dumps(render.as_data(result), indent=2) if options.json else render.report(result))
    return 0 if result.ok else 1


def _report(options: argparse.Namespace) -> int:
    from engine.audit import html
    from engine.audit.fleet import fleet_page, traces_in
    from engine.audit.model_check import load
    from engine.audit.report import run_page

    one = len(options.files) == 1 and not options.runs
    if bool(options.files) == (options.traces is not None):
        _parser().error("report takes either traces or --traces DIR")
    if options.check is not None and not one:
        _parser().error("--check belongs to the report of one run")
    if options.runs and (options.key or options.signers):
        _parser().error("a signature belongs to the file of one run: --runs has no place beside it")
    signers = _whose_signatures(options)
    if one:
        check = None if options.check is None else load(options.check)
        page = run_page(options.files[0], check=check, signers=signers)
    else:
        paths = options.files or traces_in(options.traces)
        workers = _whose_work(options, paths)
        page = fleet_page(paths, signers=signers, runs=options.runs, workers=workers)
    html.write(options.output, page)
    print(json.dumps({"report": options.output}) if options.json else f"written: {printable(options.output)}")
    return 0


def _trace_verify(options: argparse.Namespace) -> int:
    from collections import Counter
    from dataclasses import asdict

    from engine.verify.trace_check import Verdict, verify

    if (signers := _whose_signatures(options)) is not None:
        return _verify_signed(options, signers)
    found: Counter[Verdict] = Counter()
    workers = _whose_work(options, options.files)
    for result in verify(options.files, runs=options.runs, workers=workers):
        found[result.verdict] += 1
        print(json.dumps(asdict(result)) if options.json else result)
    if found.total() > 1 and not options.json:
        print(
            f"{found.total()} runs: {'; '.join(f'{number} {verdict}' for verdict, number in found.items())}"
        )
    good = {Verdict.CONFORMS, *(() if options.complete else (Verdict.INCOMPLETE,))}
    if found.keys() - good - {Verdict.UNREADABLE}:
        return 1
    return UNREADABLE if Verdict.UNREADABLE in found else 0


def _verify_signed(options: argparse.Namespace, signers: Signers) -> int:
    from engine.verify.signature import verify
    from engine.verify.trace_check import STDIN, Verdict

    if options.runs or STDIN in options.files:
        _parser().error(
            "a signature belongs to the file of one run: neither --runs nor - has a place beside it"
        )
    all_good = True
    for verified in verify(options.files, signers, _whose_work(options, options.files)):
        complete = verified.result.verdict is Verdict.CONFORMS or not options.complete
        all_good = all_good and verified.is_good and complete
        print(json.dumps(verified.as_data()) if options.json else verified)
    return 0 if all_good else 1


def _sign(options: argparse.Namespace) -> int:
    from engine.verify.signature import sign

    for path in options.files:
        signature = sign(path, options.key)
        print(json.dumps({"signature": signature}) if options.json else f"signed: {printable(signature)}")
    return 0


def _whose_signatures(options: argparse.Namespace) -> Signers | None:
    if options.key is not None and options.signers is not None:
        _parser().error("give either --key or --signers")
    if (options.signers is None) != (options.identity is None):
        _parser().error("--signers and --identity belong together")
    if options.key is options.signers is None:
        return None
    from engine.verify.signature import Signers

    if options.key is not None:
        return Signers.of_key(options.key)
    return Signers.of_identity(options.signers, options.identity)


def _whose_work(options: argparse.Namespace, paths: Sequence[str]) -> Workers | None:
    if options.cluster is None:
        if options.jobs == 1:
            return None
        from engine.verify.workers import Processes

        return Processes(options.jobs)
    if options.jobs != 1:
        _parser().error("give either --jobs or --cluster")
    if not all(map(os.path.isabs, paths)):
        _parser().error("a cluster's workers are elsewhere: with --cluster, name files by absolute paths")
    from engine.verify.workers import DaskCluster

    return DaskCluster(options.cluster)


def _diagram(options: argparse.Namespace) -> int:
    from engine.audit.diagram import Format, Subject, picture, write

    suffix = os.path.splitext(options.output or "")[1][1:].lower()
    form = Format(options.format or (suffix if suffix in set(Format) else Format.SVG))
    subject = Subject(options.subject)
    if options.trace is not None and subject is not Subject.LIFECYCLE:
        _parser().error(f"--trace goes with the lifecycle, not with {subject}")
    if form is Format.MERMAID and subject is not Subject.LIFECYCLE:
        _parser().error(f"{subject} has no Mermaid form: take svg, png, pdf or dot")
    if form.is_binary and options.output is None and sys.stdout.isatty():
        _parser().error(f"a terminal cannot show {form}: name a file with --output, or redirect")
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


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from engine.doctor.doctor import examine

    parts = examine()
    if options.json:
        print(json.dumps([asdict(part) for part in parts], indent=2))
        return 0
    from tabulate import tabulate

    rows = [(part.name, part.status, part.found, part.enables, part.remedy) for part in parts]
    print(tabulate(rows, headers=("part", "status", "found", "enables", "remedy"), tablefmt="simple"))
    return 0
