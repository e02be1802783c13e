"""`dipaco-node compare`: a run held against its controls, over several seeds."""

from pathlib import Path

import click

from dipaco.cli.exits import Exit

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--methods", metavar="A,B,..", help="Which, in this order [the six usual ones].")
@click.option("--seeds", default="1", metavar="N", help="How many, from 0; or which: 0,3,5 [1].")
@click.option("--reroute", metavar="W,W,..", help="Score too with paths chosen every W tokens.")
@click.option("--rounds", type=click.IntRange(1), help="In place of the run's; not for run files.")
@click.option("--data", type=FOLDER, help="Its parquet files in place of source.files.")
@click.option("--out", default="compare", type=FOLDER, help="Results go here [compare].")
@click.option("--jobs", default=1, type=click.IntRange(1, 256), help="Processes at once [1].")
@click.option("--device", default="cpu", metavar="D", help="cpu or cuda:N [cpu].")
def compare(
    name: str,
    methods: str | None,
    seeds: str,
    reroute: str | None,
    rounds: int | None,
    data: Path | None,
    out: Path,
    jobs: int,
    device: str,
) -> int:
    """Train RUN, a run file or its TOML file [the packaged demo], and its controls.

    Every method begins from one seed model and is scored on the same held-out documents. What is
    finished is kept in --out: the same command goes on where it was interrupted.
    """
    from dipaco.cli.comparing import compare_run, methods_of, seeds_of, windows_of

    compare_run(
        name,
        methods=methods_of(methods),
        seeds=seeds_of(seeds),
        windows=windows_of(reroute),
        rounds=rounds,
        data=data,
        out=out,
        jobs=jobs,
        device=device,
    )
    return Exit.OK
