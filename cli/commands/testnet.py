"""`dipaco-node testnet`: runs a network of real processes on this machine to its last round."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import SEED_HELP, OutFile

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", required=False, type=FILE)
@click.option("--nodes", default=4, type=click.IntRange(1, 64), help="Volunteers [4].")
@click.option("--rounds", type=click.IntRange(1), help="Replaces the run's.")
@click.option("--kill", default=0, type=click.IntRange(0), help="Volunteers to SIGKILL [0].")
@click.option("--seed", default=0, type=click.IntRange(0, (1 << 63) - 1), help=SEED_HELP)
@click.option("--home", type=click.Path(path_type=Path), help="Keep all homes here [temporary].")
@click.option("--report", type=OutFile(), help="Write a report here, as JSON.")
def testnet(
    file: Path | None,
    nodes: int,
    rounds: int | None,
    kill: int,
    seed: int,
    home: Path | None,
    report: Path | None,
) -> int:
    """Run one rendezvous node and volunteers to the end of a run [the packaged demo].

    Every node is a process on this machine. --kill kills volunteers while they hold a lease; the
    run must end with the same digests as without it.
    """
    if kill >= nodes:
        raise click.UsageError(f"--kill {kill}: at least one of {nodes} volunteers must live")
    from dipaco.cli.inputs import home_for
    from dipaco.cli.testnet.local_run import local_run
    from dipaco.cli.testnet.network import RENDEZVOUS, Plan, run_network
    from dipaco.cli.testnet.settings import node_settings
    from dipaco.cli.views.report import print_report, write_report
    from dipaco.node.storage.blobs import BlobStore

    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dipaco-")))
        settings = node_settings(os.environ, folder / RENDEZVOUS)
        with home_for(folder / RENDEZVOUS) as first:
            local = local_run(file, seed=seed, rounds=rounds, blobs=BlobStore(first.blobs))
        plan = Plan(
            local=local,
            seed=seed,
            nodes=nodes,
            kill=kill,
            home=folder.absolute(),
            settings=settings,
        )
        result = run_network(plan)
    print_report(result)
    if report is not None:
        write_report(report, result)
    return Exit.OK if result.completed else Exit.ERROR
