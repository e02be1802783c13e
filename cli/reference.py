"""`dipaco-node reference`: a run in this one process, the bits that a swarm must equal."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import SEED_HELP

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--rounds", type=click.IntRange(1), help="In place of the run's; not for run files.")
@click.option("--seed", default=0, type=click.IntRange(0, (1 << 63) - 1), help=SEED_HELP)
@click.option("--home", type=click.Path(path_type=Path), help="Keep states here [temporary].")
@click.option("--device", default="cpu", metavar="D", help="auto, cpu, cuda:N or mps [cpu].")
@click.option("--report", type=FILE, help="JSON goes here.")
@click.option("--compare", type=FILE, help="A report whose module digests must be the same.")
def reference(
    name: str,
    rounds: int | None,
    seed: int,
    home: Path | None,
    device: str,
    report: Path | None,
    compare: Path | None,
) -> int:
    """Train RUN, a run file or its TOML file [the packaged demo], in one process."""
    from dipaco.cli.report import differences, print_report, read_report, write_report
    from dipaco.cli.single_process import run_single

    theirs = read_report(compare) if compare else None
    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dipaco-")))
        ours = run_single(name, seed=seed, rounds=rounds, home=folder.absolute(), device=device)
    print_report(ours)
    if report is not None:
        write_report(report, ours)
    if theirs is None:
        return Exit.OK
    found = differences(ours, theirs)
    for line in found or ["every module digest is the same"]:
        click.echo(line)
    return Exit.ERROR if found else Exit.OK
