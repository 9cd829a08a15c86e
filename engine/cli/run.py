"""`engine run`: run an OCI bundle under runsc, here or as a systemd service."""

from __future__ import annotations

import json
import os

from engine.cli.command import add_choice, add_command, say, wrong_usage
from engine.errors import EngineError, printable, shell_word
from engine.options import (
    ExecPolicy,
    Network,
    Platform,
    RunOptions,
    check_container_id,
    exec_policy_name,
    runsc_flags,
)
from engine.quick import import_transitions

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from engine.bundle.bundle import Bundle


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "run", _run, "run an OCI bundle under runsc", becomes_runsc=True)
    parser.add_argument("bundle", metavar="BUNDLE", help="the bundle's directory")
    parser.add_argument("--id", help="the container's id (default: 32 random hexadecimal digits)")
    add_choice(parser, "--network", Network, Network.NONE, "the container's network")
    add_choice(parser, "--platform", Platform, Platform.AUTO, "how gVisor intercepts system calls")
    parser.add_argument(
        "--rootless", action="store_true", help="run runsc in a user namespace; needed without root"
    )
    parser.add_argument("--ignore-cgroups", action="store_true", help="set up no cgroups")
    add_choice(
        parser,
        "--exec-policy",
        ExecPolicy,
        ExecPolicy.AUTO,
        "with --rootless: which host programs the supervisor may execute",
        exec_policy_name,
    )
    parser.add_argument(
        "--require-exec-policy",
        action="store_true",
        help="refuse to run where that policy cannot be enforced",
    )
    parser.add_argument(
        "--require-strict-bundle",
        action="store_true",
        help="refuse a bundle that other users can change, or that would be warned of",
    )
    parser.add_argument(
        "--require-enforced",
        action="store_true",
        help="refuse a bundle of which this runsc will not do all as asked; see check-bundle",
    )
    parser.add_argument(
        "--root-digest", action="store_true", help="record a digest of the root file system; reads all of it"
    )
    parser.add_argument("--runsc", metavar="PATH", help="the runsc to run (default: a trusted system path)")
    parser.add_argument(
        "--runsc-flag",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="pass a flag on to runsc, of a list; may be repeated",
    )
    parser.add_argument(
        "--debug-log", metavar="DIR", help="have runsc write its debug log to files in this directory"
    )
    parser.add_argument("--trace", metavar="FILE", help="write the trace to this new file")
    parser.add_argument(
        "--sign",
        metavar="KEY",
        help="sign the trace after the container's end with this private key; implies --supervise",
    )
    parser.add_argument("--verbose", action="store_true", help="say the container's id and the trace's path")
    parser.add_argument(
        "--supervise",
        action="store_true",
        help="stay, pass signals on, record how the container ended, and clean up (always with --detach)",
    )
    parser.add_argument(
        "--detach", action="store_true", help="run as a systemd service, with output in the journal"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the arguments and environment for runsc; change nothing"
    )


def _run(options: argparse.Namespace) -> int:
    from engine.bundle.bundle import open_bundle, starts_as_usual

    if options.id is not None:
        check_container_id(options.id)
    if options.dry_run and options.trace is not None:
        wrong_usage("--dry-run writes nothing: leave out --trace")
    if options.dry_run and options.detach:
        wrong_usage("--dry-run runs nothing: leave out --detach")
    if options.debug_log is not None:
        options.runsc_flag += [f"debug-log={options.debug_log}", "debug"]
    chosen = RunOptions(
        container_id=options.id if options.id is not None else os.urandom(16).hex(),
        network=Network(options.network),
        platform=Platform(options.platform),
        rootless=options.rootless,
        ignore_cgroups=options.ignore_cgroups,
        exec_policy=ExecPolicy(options.exec_policy),
        require_exec_policy=options.require_exec_policy,
        runsc=options.runsc,
        require_strict_bundle=options.require_strict_bundle,
        supervise=options.supervise or options.detach or options.sign is not None,
        root_digest=options.root_digest,
        runsc_flags=runsc_flags(options.runsc_flag),
        require_enforced=options.require_enforced,
    )
    bundle = open_bundle(options.bundle, require_strict=chosen.require_strict_bundle)
    if not starts_as_usual(bundle, chosen):
        from engine.bundle.program import check

        # `--dry-run` starts nothing, and in a service stdin is never a terminal.
        has_terminal = True if options.dry_run else False if options.detach else None
        check(bundle, chosen, has_terminal=has_terminal)
    if options.sign is not None and not options.dry_run:
        from engine.verify.signature import check_key

        check_key(options.sign)
    if options.detach:
        return _detach(bundle.path, chosen, options)
    if options.dry_run:
        return _dry_run(bundle, chosen, as_json=options.json)
    return _go(bundle, chosen, options)


def _dry_run(bundle: Bundle, chosen: RunOptions, *, as_json: bool) -> int:
    from engine.lifecycle.plan import plan

    planned = plan(chosen, os.environ)
    if chosen.require_enforced or chosen.runsc_flags:
        from engine.lifecycle.validate import hold_against

        hold_against(planned.runsc, bundle, chosen, joins_a_pod=False)
    if as_json:
        print(json.dumps({"argv": planned.argv, "environment": planned.environment}, indent=2))
    else:
        print("\n".join(f"{name}={shell_word(value)}" for name, value in planned.environment.items()))
        print(" ".join(map(shell_word, planned.argv)))
    return 0


def _go(bundle: Bundle, chosen: RunOptions, options: argparse.Namespace) -> int:
    """Become runsc, or its supervisor. All that is said goes to stderr: stdout is the container's."""

    def warn(text: str) -> None:
        say(json.dumps({"warning": text}) if options.json else f"engine: warning: {printable(text)}")

    def announce(trace: str) -> None:
        if options.json:
            say(json.dumps({"run": {"id": chosen.container_id, "trace": printable(trace)}}))
        elif options.verbose:
            say(f"engine: container {chosen.container_id}, trace {printable(trace)}")

    def sign(trace: str) -> None:
        from engine.verify import signature

        try:
            made = signature.sign(trace, options.sign)
        except EngineError as error:
            warn(f"the trace is not signed: {error.what}; {error.hint}")
            return
        if options.verbose and not options.json:
            say(f"engine: signed: {printable(made)}")

    supervisor = None
    if chosen.supervise:
        from engine.lifecycle.supervisor import Channel, fork

        forked = fork(bundle, chosen, warn, recorded=sign if options.sign is not None else None)
        if not isinstance(forked, Channel):
            return forked
        supervisor = forked
    import_transitions()
    from engine.lifecycle.runner import run

    try:
        return run(
            *(bundle, chosen, os.environ),
            trace_path=options.trace,
            supervisor=supervisor,
            warn=warn,
            announce=announce,
        )
    except EngineError as error:
        if error.trace is not None:
            error.container = chosen.container_id
            if not options.json:
                announce(error.trace)
            if options.sign is not None:
                sign(error.trace)
        raise


def _detach(bundle: str, chosen: RunOptions, options: argparse.Namespace) -> int:
    """Start the same run as a service, and print its id."""
    from engine.cli.detach import start
    from engine.traces.writer import options_facts

    arguments = [bundle, "--id", chosen.container_id]
    for flag, value in options_facts(chosen).items():
        name = f"--{flag.replace('_', '-')}"
        if value is True:
            arguments.append(name)
        elif isinstance(value, str):
            arguments += [name, os.path.abspath(value) if flag == "runsc" else value]
    for flag in chosen.runsc_flags:
        arguments.append(f"--runsc-flag={flag.removeprefix('--')}")
    for name in ("trace", "sign"):
        if (path := getattr(options, name)) is not None:
            arguments += [f"--{name}", os.path.abspath(path)]
    unit = start(chosen.container_id, arguments, os.environ)
    print(json.dumps({"id": chosen.container_id, "unit": unit}) if options.json else chosen.container_id)
    if not options.json:
        say(
            "engine: its output is in the journal: "
            f"journalctl {'' if os.geteuid() == 0 else '--user '}-t {unit.removesuffix('.service')}"
        )
    return 0
