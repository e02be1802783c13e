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
    from dipaco.node.compare.study import Plan
    from dipaco.node.compare.summary import Comparison

MAX_SEEDS = 1000
MAX_SEED = 1 << 53  # as the manifest has it
MAX_RATE = 1e3  # likewise
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--methods", metavar="A,B+C,..", help="Methods [the seven usual ones]; +: ablations.")
@click.option("--seeds", default="1", metavar="N", help="How many, from 0, or a list: 0,3,5 [1].")
@click.option(
    "--repeats", default=1, type=click.IntRange(1, 100), help="Orders of batches for a seed [1]."
)
@click.option(
    "--rates",
    multiple=True,
    metavar="[A:]R,R,..",
    help="Inner rates to choose from [the run's]; for method A alone. May be given again.",
)
@click.option("--outer-rates", metavar="R,R,..", help="Outer rates to choose from [the run's].")
@click.option("--reroute", metavar="W,W,..", help="Also score with a path chosen every W tokens.")
@click.option("--domain-field", metavar="NAME", help="Column of domains, for rows by domain.")
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
    repeats: int,
    rates: tuple[str, ...],
    outer_rates: str | None,
    reroute: str | None,
    domain_field: str | None,
    rounds: int | None,
    data: Path | None,
    out: Path,
    jobs: int,
    device: str,
) -> int:
    """Train RUN, a run file or its TOML file [the packaged demo], and its controls.

    All methods begin with the same seed model and train on the same batches. Rates are chosen by
    one half of the held-out documents, and the other half is shown. --out keeps finished results:
    the same command continues an interrupted comparison.
    """
    from dipaco.node.compare.study import Plan

    plan = Plan(
        methods=methods_of(methods),
        rates=rates_of(rates),
        outer_rates=rate_list(outer_rates, "--outer-rates") if outer_rates is not None else (),
        repeats=repeats,
        windows=windows_of(reroute),
        device=device,
    )
    compare_run(
        name,
        plan,
        seeds=seeds_of(seeds),
        domain_field=domain_field,
        rounds=rounds,
        data=data,
        out=out,
        jobs=jobs,
    )
    return Exit.OK


def compare_run(
    name: str,
    plan: "Plan",
    *,
    seeds: Sequence[int],
    domain_field: str | None,
    rounds: int | None,
    data: Path | None,
    out: Path,
    jobs: int,
) -> None:
    """Do the tasks whose results `out` lacks, then write and print the whole comparison."""
    from dipaco.cli.testnet.local_run import run_named
    from dipaco.cli.views.progress import display
    from dipaco.cli.views.tasks import TaskProgress
    from dipaco.node.compare.folder import seed_folder
    from dipaco.node.compare.pool import run_tasks
    from dipaco.node.compare.study import finished, keep_labels, make_folder, missing_tasks
    from dipaco.node.compare.variants import check_comparable, with_seed
    from dipaco.node.storage.blobs import BlobStore

    with TemporaryDirectory() as given:
        blobs = BlobStore(Path(given))
        local = run_named(name, rounds=rounds, data=data, blobs=blobs)
        check_comparable(local.run.manifest, plan.methods)
        manifests = [with_seed(local.run.manifest, seed) for seed in seeds]
        folders = [seed_folder(out.absolute(), manifest) for manifest in manifests]
        for folder in folders:
            make_folder(folder, local.tokenizer, blobs)
    with display("comparison") as shown:
        progress = TaskProgress(shown)
        while tasks := missing_tasks(folders, plan):
            progress.expect(tasks)
            run_tasks(tasks, jobs, progress)
    if domain_field is not None:
        keep_labels(folders[0], domain_field)
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
    from dipaco.node.compare.variants import ABLATIONS, JOIN, METHODS, USUAL, ordered
    from dipaco.protocol.wire.faults import nearest

    if text is None:
        return USUAL
    found = []
    for name in text.split(","):
        base, *changes = name.strip().split(JOIN)
        for part, known in ((base, METHODS), *((change, ABLATIONS) for change in changes)):
            if part not in known:
                hint = nearest(part, list(known))
                raise ConfigError(f"--methods: {part!r} is none of {', '.join(known)}{hint}")
        found.append(ordered(base, changes))
    return tuple(dict.fromkeys(found))


def rates_of(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return by method the rates that `--rates` names, under "" those of all others.

    Raises ConfigError for a rate that no run can have, or a method that is none.
    """
    found = {}
    for text in texts:
        method, colon, rates = text.rpartition(":")
        (name,) = methods_of(method) if colon else ("",)
        found[name] = rate_list(rates, "--rates")
    return found


def rate_list(text: str, option: str) -> tuple[float, ...]:
    """Return the rates of a list like 1e-3,3e-3; raises ConfigError."""
    try:
        rates = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a list of rates like 1e-3,3e-3") from None
    for rate in rates:
        if not 0 < rate <= MAX_RATE:
            raise ConfigError(f"{option}: {rate:g} is not above 0 and at most {MAX_RATE:g}")
    return rates


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
