"""`dipaco-node compare`: trains a run and its controls, over several seeds, and compares them."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import DeviceName
from dipaco.protocol.errors import ConfigError

if TYPE_CHECKING:
    from dipaco.node.compare.results import Comparison

MAX_SEEDS = 1000
MAX_SEED = 1 << 53  # as the manifest has it
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--methods", metavar="A,B,..", help="Methods, in this order [the six usual ones].")
@click.option("--seeds", default="1", metavar="N", help="How many, from 0, or a list: 0,3,5 [1].")
@click.option("--reroute", metavar="W,W,..", help="Also score with a path chosen every W tokens.")
@click.option("--rounds", type=click.IntRange(1), help="Replaces the run's; not for run files.")
@click.option("--data", type=FOLDER, help="Folder of parquet files that replace source.files.")
@click.option("--out", default="compare", type=FOLDER, help="Results go here [compare].")
@click.option("--jobs", default=1, type=click.IntRange(1, 256), help="Processes at once [1].")
@click.option(
    "--device", default="cpu", type=DeviceName(), metavar="D", help="cpu or cuda:N [cpu]."
)
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

    All methods begin with the same seed model and are scored on the same held-out documents. --out
    keeps finished results: the same command continues an interrupted comparison.
    """
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


def compare_run(
    name: str,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    windows: Sequence[int],
    rounds: int | None,
    data: Path | None,
    out: Path,
    jobs: int,
    device: str,
) -> None:
    """Do the tasks whose results `out` lacks, then write and print the whole comparison."""
    from dipaco.cli.testnet.local_run import run_named
    from dipaco.cli.views.progress import display
    from dipaco.cli.views.tasks import TaskProgress
    from dipaco.node.compare.folder import seed_folder
    from dipaco.node.compare.pool import run_tasks
    from dipaco.node.compare.study import finished, make_folder, missing_tasks
    from dipaco.node.compare.variants import check_comparable, with_seed
    from dipaco.node.storage.blobs import BlobStore

    with TemporaryDirectory() as given:
        blobs = BlobStore(Path(given))
        local = run_named(name, rounds=rounds, data=data, blobs=blobs)
        check_comparable(local.run.manifest, methods)
        manifests = [with_seed(local.run.manifest, seed) for seed in seeds]
        folders = [seed_folder(out.absolute(), manifest) for manifest in manifests]
        for folder in folders:
            make_folder(folder, local.tokenizer, blobs)
    tasks = [t for folder in folders for t in missing_tasks(folder, methods, windows, device)]
    with display("comparison") as shown:
        run_tasks(tasks, jobs, TaskProgress(shown, tasks))
    _write(finished(local.run.manifest.name, folders), out)


def _write(comparison: "Comparison", out: Path) -> None:
    """Write the comparison as JSON, Markdown and a picture, and print it."""
    from dipaco.cli.views.comparison import markdown, print_comparison
    from dipaco.cli.views.plot import MISSING, draw, matplotlib_is_here
    from dipaco.node.compare.results import write_result
    from dipaco.node.storage.files import write_file

    write_result(out / "compare.json", comparison)
    write_file(out / "compare.md", markdown(comparison).encode())
    if matplotlib_is_here():
        draw(comparison, out / "compare.png")
    print_comparison(comparison)
    click.echo(
        f"written to {out}: compare.json, compare.md"
        + (", compare.png" if matplotlib_is_here() else f"\n{MISSING}")
    )


def methods_of(text: str | None) -> tuple[str, ...]:
    """Return the methods that `--methods` names, the usual ones for None; raises ConfigError."""
    from dipaco.node.compare.variants import METHODS, USUAL
    from dipaco.protocol.wire.faults import nearest

    if text is None:
        return USUAL
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            hint = nearest(name, list(METHODS))
            raise ConfigError(f"--methods: {name!r} is none of {', '.join(METHODS)}{hint}")
    return names


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds that `--seeds` means, `3`: 0, 1, 2; `4,7`: these; raises ConfigError."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.rstrip(",").split(",")))
    except ValueError:
        raise ConfigError(f"--seeds: {text!r} is neither a number nor a list like 0,3,5") from None
    if "," not in text:
        if not 1 <= numbers[0] <= MAX_SEEDS:
            raise ConfigError(f"--seeds: {numbers[0]} is not in 1 to {MAX_SEEDS}")
        return tuple(range(numbers[0]))
    if min(numbers) < 0 or max(numbers) > MAX_SEED:
        raise ConfigError(f"--seeds: {text!r} has a seed outside 0 to {MAX_SEED}")
    return numbers


def windows_of(text: str | None) -> tuple[int, ...]:
    """Return the windows that `--reroute` names, none for None; raises ConfigError."""
    if text is None:
        return ()
    try:
        windows = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"--reroute: {text!r} is not a list of tokens like 128,64,32") from None
    if min(windows) < 1:
        raise ConfigError(f"--reroute: {text!r} has a window below one token")
    return windows
