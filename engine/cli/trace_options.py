"""Options of commands that read traces: accepted signatures, and parallel work."""

from __future__ import annotations

import os

from engine.cli.command import positive, wrong_usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from engine.verify.signature import Signers
    from engine.verify.workers import Workers


def add_signers(parser: argparse.ArgumentParser) -> None:
    """Add the options for accepted signatures."""
    parser.add_argument("--key", metavar="PUB", help="require a signature by this public key")
    parser.add_argument(
        "--signers",
        metavar="FILE",
        help="require a signature by --identity, as listed in this OpenSSH allowed_signers file",
    )
    parser.add_argument("--identity", metavar="NAME", help="a name in the --signers file")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options for parallel work."""
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="use N processes (default: 1)")
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="use the workers of this Dask scheduler; they must see the same files",
    )


def signers_of(options: argparse.Namespace) -> Signers | None:
    """The accepted signatures; None if no option is given. Exits on wrong usage, or raises `SignatureError`."""
    if options.key is not None and options.signers is not None:
        wrong_usage("give either --key or --signers")
    if (options.signers is None) != (options.identity is None):
        wrong_usage("--signers and --identity belong together")
    if options.key is options.signers is None:
        return None
    from engine.verify.signature import Signers

    if options.key is not None:
        return Signers.of_key(options.key)
    return Signers.of_identity(options.signers, options.identity)


def workers_of(options: argparse.Namespace, paths: Sequence[str]) -> Workers | None:
    """The workers that read `paths`; None for this process alone. Exits on wrong usage."""
    if options.cluster is None:
        if options.jobs == 1:
            return None
        from engine.verify.workers import Processes

        return Processes(options.jobs)
    if options.jobs != 1:
        wrong_usage("give either --jobs or --cluster")
    if not all(map(os.path.isabs, paths)):
        wrong_usage("a cluster's workers are elsewhere: with --cluster, give absolute paths")
    from engine.verify.workers import DaskCluster

    return DaskCluster(options.cluster)
