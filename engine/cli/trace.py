"""`engine trace`: find, show, verify, sign or attest the traces of runs."""

from __future__ import annotations

import contextlib
import json
import os

from engine.cli import attestation, trace_files
from engine.cli.command import UNREADABLE, Formatter, add_command, say, wrong_usage
from engine.cli.trace_options import add_signers, add_workers, signers_of, workers_of
from engine.errors import Reason, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from engine.verify.host import HostResult
    from engine.verify.signature import Signers


def add(commands: Any) -> None:
    """Add the command to the parser."""
    trace = commands.add_parser(
        "trace",
        help="find, show, verify, sign or attest the traces of runs",
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    of_traces = trace.add_subparsers(title="commands", metavar="COMMAND", required=True)
    verify = add_command(of_traces, "verify", _verify, "check traces line by line against the spec")
    verify.add_argument("files", nargs="*", metavar="FILE", help="a trace; - is standard input")
    verify.add_argument(
        "--host",
        action="store_true",
        help="say whether every run of this host still has its trace; FILE: traces that were moved elsewhere",
    )
    verify.add_argument(
        "--head",
        type=_head,
        metavar="N:SHA256",
        help="with --host: entry N of the chain, of the first of several, had this digest once",
    )
    verify.add_argument(
        "--runs", action="store_true", help="a FILE holds the traces of many runs, one after another"
    )
    verify.add_argument(
        "--complete", action="store_true", help="an incomplete trace counts as one that differs"
    )
    verify.add_argument(
        "--bundle",
        metavar="DIR",
        help="compare what was asked for with config.json in the directory DIR, too",
    )
    add_signers(verify)
    add_workers(verify)
    trace_files.add(of_traces)
    sign = add_command(of_traces, "sign", _sign, "sign traces; each signature is a new file, TRACE.sig")
    sign.add_argument("files", nargs="+", metavar="FILE", help="a trace")
    sign.add_argument(
        "--key",
        metavar="KEY",
        required=True,
        help="a private key without a passphrase that only its owner can read",
    )
    attestation.add(of_traces)


def _head(text: str) -> tuple[int, str]:
    """The number of an entry and its digest. Raises `ValueError`."""
    number, _, digest = text.partition(":")
    if len(digest) != 64 or digest.strip("0123456789abcdef"):
        raise ValueError
    return int(number), digest


def _verify_host(options: argparse.Namespace) -> int:
    """Hold the traces of this user against the chains over the runs, each in its directory of traces."""
    from dataclasses import asdict

    if options.runs or options.complete or options.bundle or options.key or options.signers:
        wrong_usage("--host looks at the chain alone: give the other options to a verify of the traces")
    results = _verified_chains(options)
    for result in results:
        if options.json:
            print(json.dumps({**asdict(result), "good": result.is_good}))
            continue
        for found in result.found:
            print(found)
        bad = sum(found.finding.is_bad for found in result.found)
        said = result.fault or (f"{bad} not as it was" if bad else "none taken away, cut, changed or added")
        head = f"; head {result.entries - 1}:{result.head}" if result.head is not None else ""
        print(f"{printable(result.path)}: {result.runs} runs: {printable(said)}{head}")
    return 0 if all(result.is_good for result in results) else 1


def _verified_chains(options: argparse.Namespace) -> list[HostResult]:
    """The chain where a run would have its trace now, and then any other of this user; a head is of the first."""
    from engine.linux.files import UntrustedPathError
    from engine.state.base import chosen_base, reach_base
    from engine.state.evidence import choose_place
    from engine.state.trace_files import places
    from engine.verify.host import HostError, verify

    results: list[HostResult] = []
    refusal: HostError | None = None
    first = choose_place(chosen_base(os.environ), os.environ)
    with contextlib.suppress(OSError, UntrustedPathError):  # then `verify` says why
        first = reach_base(first, make=False)  # by links that nobody else can change, as a run
    try:
        results.append(verify(first, options.files, options.head))
    except HostError as error:
        if error.reason != Reason.NO_SUCH or options.head is not None:
            raise
        refusal = error
    for place in dict.fromkeys(places(os.environ)[0]):
        if place == first:
            continue
        try:
            results.append(verify(place, options.files))
        except HostError as error:
            if error.reason == Reason.ROOT_NOT_PRIVATE:  # which others can make in /tmp
                say(f"engine: warning: {printable(str(error))}")
            elif error.reason != Reason.NO_SUCH:
                raise
    if refusal is not None and not results:
        raise refusal
    return results


def _verify(options: argparse.Namespace) -> int:
    if options.host:
        return _verify_host(options)
    if not options.files or options.head is not None:
        wrong_usage("give a FILE, or --host; --head belongs to --host")
    from collections import Counter
    from dataclasses import asdict

    from engine.verify.trace_check import Verdict, verify
    from engine.verify.trace_file import SUFFIX

    signers = signers_of(options)
    if options.bundle is not None:
        from engine.verify import with_bundle
        from engine.verify.trace_file import STDIN

        if options.runs or signers is not None or STDIN in options.files:
            wrong_usage("a bundle belongs to the file of one run: leave out --runs, --signers and -")
        results = with_bundle.verify(options.files, with_bundle.read_config(options.bundle))
    elif signers is not None:
        return _verify_signed(options, signers)
    else:
        results = verify(options.files, runs=options.runs, workers=workers_of(options, options.files))
    found: Counter[Verdict] = Counter()
    for result in results:
        found[result.verdict] += 1
        is_signed = not options.runs and os.path.lexists(result.path + SUFFIX)
        if options.json:
            print(json.dumps({**asdict(result), "signed": is_signed}))
        else:
            print(f"{result}; signed, not checked: give --key or --signers" if is_signed else result)
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
    from engine.verify.trace_check import Verdict
    from engine.verify.trace_file import STDIN

    if options.runs or STDIN in options.files:
        wrong_usage("a signature belongs to the file of one run: leave out --runs and -")
    all_good = True
    for verified in verify(options.files, signers, workers_of(options, options.files)):
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
