"""`dipaco-node reference`: trains a run in one process; a network must end with the same bits."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import SEED_HELP, DeviceName, OutFile

if TYPE_CHECKING:
    from dipaco.cli.views.report import Report
    from dipaco.node.jobs.settings import WorkerSettings
    from dipaco.node.jobs.values import Progress
    from dipaco.node.reference.run import ReferenceResult
    from dipaco.node.runs.local_result import LocalResult
    from dipaco.node.storage.files import Home
    from dipaco.protocol.run.manifest import Manifest

FILE = click.Path(path_type=Path, dir_okay=False)
COPY_BYTES = 1 << 20  # of a blob at once


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--rounds", type=click.IntRange(1), help="Replaces the run's; not for run files.")
@click.option("--seed", default=0, type=click.IntRange(0, (1 << 63) - 1), help=SEED_HELP)
@click.option("--home", type=click.Path(path_type=Path), help="Keep states here [temporary].")
@click.option(
    "--device",
    default="cpu",
    type=DeviceName(),
    metavar="D",
    help="auto, cpu, cuda:N or mps [cpu].",
)
@click.option("--report", type=OutFile(), help="Write a report here, as JSON.")
@click.option("--compare", type=FILE, help="A report whose module digests must be the same.")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path),
    help="A ledger file, or a node's home: train again what it tells, and compare.",
)
def reference(
    name: str,
    rounds: int | None,
    seed: int,
    home: Path | None,
    device: str,
    report: Path | None,
    compare: Path | None,
    ledger: Path | None,
) -> int:
    """Train RUN, a run file or its TOML file [the packaged demo], in one process.

    With --ledger, train again what a run's ledger tells, with the paths that took part; RUN is
    then a name or id, where a home has several. Ends with 1 at the first record that differs.
    """
    from dipaco.cli.views.report import differences, print_report, read_report, write_report

    if ledger is not None:
        if seed or rounds or compare:
            raise click.UsageError("--ledger excludes --seed, --rounds and --compare")
        return _replay(name, ledger, home=home, device=device, report=report)
    theirs = read_report(compare) if compare else None
    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dipaco-")))
        ours = train_reference(
            name, seed=seed, rounds=rounds, home=folder.absolute(), device=device
        )
    print_report(ours)
    if report is not None:
        write_report(report, ours)
    if theirs is None:
        return Exit.OK
    found = differences(ours, theirs)
    for line in found or ["every module digest is the same"]:
        click.echo(line)
    return Exit.ERROR if found else Exit.OK


def train_reference(
    name: str, *, seed: int, rounds: int | None, home: Path, device: str
) -> "Report":
    """Train the run `name` (a .run file, a TOML file, or empty: the demo) and return the report.

    The home then has the run, its states and its local result, for `eval`, `generate` and `ckpt`.
    """
    from dipaco.cli.inputs import home_for
    from dipaco.cli.testnet.local_run import run_named
    from dipaco.node.jobs.settings import environment, reproducible_settings
    from dipaco.node.runs.files import keep_run
    from dipaco.node.runs.local_result import keep_local_result
    from dipaco.node.storage.blobs import BlobStore

    with home_for(home) as node:
        blobs = BlobStore(node.blobs)
        local = run_named(name, seed=seed, rounds=rounds, blobs=blobs)
        if local.tokenizer is not None:
            blobs.write(local.tokenizer)
    settings = reproducible_settings(home, device)
    os.environ.update(environment(settings.compute.torch_threads))
    manifest, began = local.run.manifest, time.monotonic()
    result = _run(manifest, settings)
    keep_run(home, local.run)
    keep_local_result(home, local.run.id, _local_result(manifest, result))
    return _report(manifest, result, time.monotonic() - began)


def _replay(name: str, ledger: Path, *, home: Path | None, device: str, report: Path | None) -> int:
    """Train a ledger's run again; returns the exit code."""
    from dipaco.cli.inputs import home_for
    from dipaco.cli.views.report import print_report, write_report
    from dipaco.node.jobs.settings import environment, reproducible_settings
    from dipaco.node.reference.replay import replay
    from dipaco.node.runs.ledger_file import checked, ledger_at
    from dipaco.protocol.numbers import count

    found, signed = ledger_at(ledger.absolute(), name)
    manifest, records = found.manifest, checked(found, signed, str(ledger))
    began = time.monotonic()
    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dipaco-")))
        with home_for(folder.absolute()) as node:
            _copy_inputs(manifest, ledger, node)
        settings = reproducible_settings(folder.absolute(), device)
        os.environ.update(environment(settings.compute.torch_threads))
        with _steps_shown(manifest) as show:
            replayed = replay(manifest, records, settings, show)
    made = _report(manifest, replayed.result, time.monotonic() - began)
    if made.losses:
        print_report(made)
    if report is not None:
        write_report(report, made)
    same = f"{count(replayed.same, 'record')} of {len(records)}"
    if replayed.difference:
        click.echo(f"{same} came out the same; {replayed.difference}")
        return Exit.ERROR
    click.echo(f"{same}: all came out the same")
    return Exit.OK


def _copy_inputs(manifest: "Manifest", source: Path, node: "Home") -> None:
    """Copy the tokenizer and a warm start from the home that has the ledger, if it is one."""
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home

    if not source.is_dir():
        return
    theirs, ours = BlobStore(Home(source).blobs), BlobStore(node.blobs)
    for digest in (manifest.tokenizer.sha256, *(each.digest for each in manifest.start)):
        if theirs.has(digest) and not ours.has(digest):
            starts = range(0, theirs.size(digest), COPY_BYTES)
            ours.write_stream(theirs.read_range(digest, start, COPY_BYTES) for start in starts)


def _run(manifest: "Manifest", settings: "WorkerSettings") -> "ReferenceResult":
    """Train to the last round."""
    from dipaco.node.reference.run import run_reference

    with _steps_shown(manifest) as show:
        return run_reference(manifest, settings, show)


@contextmanager
def _steps_shown(manifest: "Manifest") -> "Iterator[Callable[[str, Progress], None]]":
    """Show progress: first of the router, then of all steps."""
    from dipaco.cli.views.progress import Work, display, job_notes, job_work
    from dipaco.node.reference.inner_steps import StepCount, all_steps

    steps, total = StepCount(), all_steps(manifest)
    with display(manifest.name) as shown:

        def show(job: str, progress: "Progress") -> None:
            done = steps.add(job, progress)
            if not done:  # deriving the router takes no step
                shown.show(job_work(f"{manifest.name}: {job}", progress))
                return
            title, notes = f"{manifest.name}: training", job_notes(progress)
            shown.show(
                Work(title=title, done=done, total=total, unit="steps", part=job, notes=notes)
            )

        yield show


def _local_result(manifest: "Manifest", result: "ReferenceResult") -> "LocalResult":
    from dipaco.node.runs.local_result import local_result_of
    from dipaco.protocol.work.kinds import Evaluated

    evaluations = (
        Evaluated(
            path=path,
            version=version,
            peer=manifest.owner,
            evaluation=found,
        )
        for (version, path), found in result.evaluations.items()
    )
    return local_result_of(result.specs, result.states, evaluations)


def _report(manifest: "Manifest", result: "ReferenceResult", seconds: float) -> "Report":
    """Return the report; a ledger may end, or differ, before the last round."""
    from dipaco.cli.views.report import build
    from dipaco.node.api.evaluations import evaluation_view

    return build(
        "reference",
        manifest,
        completed=max(map(len, result.states.values()), default=0) > manifest.training.rounds,
        seconds=seconds,
        states={
            module: {version: digest.hex() for version, digest in enumerate(digests)}
            for module, digests in result.states.items()
        },
        evaluations=[
            evaluation_view(path, version, manifest.owner, found)
            for (version, path), found in result.evaluations.items()
        ],
    )
