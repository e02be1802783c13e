"""The comparison behind `dipaco-node compare`: tasks, progress, and the files that come of it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

from dipaco.cli.compare_table import markdown, print_comparison
from dipaco.cli.local_run import run_named
from dipaco.cli.plot import MISSING, draw, matplotlib_is_here
from dipaco.cli.progress import clock
from dipaco.node.compare.folder import SeedFolder, seed_folder
from dipaco.node.compare.pool import Report, Task, run_tasks
from dipaco.node.compare.results import Comparison, summarise, write_result
from dipaco.node.compare.variants import METHODS, USUAL, check_comparable, with_seed
from dipaco.node.config import nearest
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home, write_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.modules import ModuleId

MAX_SEEDS = 1000
MAX_SEED = 1 << 53  # as the manifest has it


def methods_of(text: str | None) -> tuple[str, ...]:
    """Return the methods that `--methods` names, the usual ones for None; raises ConfigError."""
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
        raise ConfigError(f"--reroute: {text!r} is no list of tokens like 128,64,32") from None
    if min(windows) < 1:
        raise ConfigError(f"--reroute: {text!r} has a window below one token")
    return windows


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
) -> Comparison:
    """Train what is missing in `out`, then write and print what all of it came to."""
    with TemporaryDirectory() as given:
        blobs = BlobStore(Path(given))
        local = run_named(name, rounds=rounds, data=data, blobs=blobs)
        check_comparable(local.run.manifest, methods)
        manifests = [with_seed(local.run.manifest, seed) for seed in seeds]
        folders = [seed_folder(out.absolute(), manifest) for manifest in manifests]
        for folder in folders:
            _make(folder, local.tokenizer, blobs)
    tasks = [task for folder in folders for task in _missing(folder, methods, windows, device)]
    with Console(stderr=True).status("") as status:
        run_tasks(tasks, jobs, Shown(status, tasks))
    comparison = found_in(local.run.manifest.name, folders)
    write_result(out / "compare.json", comparison)
    write_file(out / "compare.md", markdown(comparison).encode())
    if matplotlib_is_here():
        draw(comparison, out / "compare.png")
    print_comparison(comparison)
    click.echo(
        f"written to {out}: compare.json, compare.md"
        + (", compare.png" if matplotlib_is_here() else f"\n{MISSING}")
    )
    return comparison


def _make(folder: SeedFolder, tokenizer: bytes | None, given: BlobStore) -> None:
    """Make a seed's folder, with what its run pins beside files."""
    kept, manifest = BlobStore(Home.at(folder.root).blobs), folder.manifest
    if tokenizer is not None:
        kept.write(tokenizer)
    for state in manifest.start:
        if not given.has(state.digest):
            raise ConfigError(
                f"{manifest.name}: a run file holds no checkpoint; name the TOML file"
            )
        elements = manifest.topology.elements(ModuleId(state.module))
        kept.write_array(given.read_array(state.digest, elements))


def _missing(
    folder: SeedFolder, methods: Sequence[str], windows: Sequence[int], device: str
) -> list[Task]:
    """Return what is still to do for one seed: its start first, re-routing last."""
    tasks = [] if folder.start() else [Task(folder, None, device)]
    tasks += [Task(folder, method, device) for method in methods if folder.result(method) is None]
    for method in methods:
        if METHODS[method].is_routed:
            found = folder.rerouted(method)
            left = tuple(w for w in windows if found is None or w not in found.windows)
            tasks += [Task(folder, method, device, left)] if left else []
    return tasks


def found_in(name: str, folders: Sequence[SeedFolder]) -> Comparison:
    """Put together everything that is finished for these seeds, whatever was asked for now."""
    starts = [folder.start() for folder in folders]
    results = [folder.result(method) for folder in folders for method in METHODS]
    rerouted = [folder.rerouted(method) for folder in folders for method in METHODS]
    titles = {name: method.title for name, method in METHODS.items()}
    return summarise(
        name,
        titles,
        [each for each in starts if each is not None],
        [each for each in results if each is not None],
        [each for each in rerouted if each is not None],
    )


class Shown:
    """Progress on stderr: one line that changes on a terminal, else a line for each round."""

    def __init__(self, status: Status, tasks: Sequence[Task]) -> None:
        self._status = status
        self._began, self._all = monotonic(), sum(task.steps for task in tasks)
        self._done = dict.fromkeys(tasks, 0)
        self._said: dict[Task, str] = {}

    def __call__(self, task: Task, report: Report | None) -> None:
        """Show how far `task` is."""
        self._done[task] = task.steps if report is None else report.steps
        what = "finished" if report is None else report.what.split(",")[0]
        if self._status.console.is_terminal:
            self._status.update(Text(self._line(task, what)))
        elif self._said.get(task) != what and not what.startswith("evaluation"):
            self._said[task] = what
            self._status.console.print(Text(self._line(task, what)), soft_wrap=True)

    def _line(self, task: Task, what: str) -> str:
        trained = what == "finished" and task.method and not task.windows
        found = task.folder.result(task.method) if trained and task.method else None
        loss = f", perplexity {found.perplexity:.1f}" if found else ""
        done = sum(self._done.values())
        gone = monotonic() - self._began
        left = f"; {clock(gone / done * (self._all - done))} left" if done else ""
        share = f"; {done / self._all:.0%}" if self._all else ""
        return f"{clock(gone)}  {task.name}: {what}{loss}{share}{left}"
