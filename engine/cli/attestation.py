"""`engine trace attest` and `engine trace verify-attestation`."""

from __future__ import annotations

import json

from engine.cli.command import UNREADABLE, add_command
from engine.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def add(of_traces: Any) -> None:
    """Add the commands to those of `engine trace`."""
    attest = add_command(
        of_traces,
        "attest",
        _attest,
        "attest runs: an in-toto Statement in a signed DSSE envelope, a new file TRACE.intoto.jsonl",
    )
    attest.add_argument("files", nargs="+", metavar="FILE", help="a trace that conforms")
    attest.add_argument(
        "--key",
        metavar="KEY",
        required=True,
        help="an Ed25519 or ECDSA private key without a passphrase that only its owner can read",
    )
    verify = add_command(
        of_traces, "verify-attestation", _verify, "check the attestation beside each trace, and its digests"
    )
    verify.add_argument("files", nargs="+", metavar="FILE", help="a trace")
    verify.add_argument("--key", metavar="PUB", required=True, help="the public key that must have signed")
    verify.add_argument("--bundle", metavar="DIR", help="compare config.json in the directory DIR, too")
    verify.add_argument(
        "--runsc", metavar="PATH", help="compare this runsc and its files in gvisor-bin/ beside it, too"
    )


def _attest(options: argparse.Namespace) -> int:
    from engine.verify.attestation import attest

    for path in options.files:
        made = attest(path, options.key)
        print(json.dumps({"attestation": made}) if options.json else f"attested: {printable(made)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from engine.verify.attestation import verify

    codes = set()
    for found in verify(options.files, options.key, bundle=options.bundle, runsc=options.runsc):
        print(json.dumps(found.as_data()) if options.json else found)
        codes.add(0 if found.is_good else UNREADABLE if found.unread else 1)
    return 1 if 1 in codes else max(codes)
