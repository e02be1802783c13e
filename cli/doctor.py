"""`dipaco-node doctor`: what keeps a node from working here, and whether a run's path fits."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from dipaco.cli.exits import Exit
from dipaco.cli.options import config_of, home_option, json_option
from dipaco.node.training.options import check_moment_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dipaco.node.config import NodeConfig
    from dipaco.node.doctor import Check
    from dipaco.node.fit import FitReport, Try
    from dipaco.protocol.manifest import Manifest


@click.command()
@click.option("--fit", "run", metavar="RUN", help="Measure what fits: run file, TOML, id or name.")
@click.option("--device", metavar="D", help="auto, cpu, cuda:N or mps [auto].")
@click.option("--max-batch", type=int, metavar="N", help="Sequences of a micro-batch [all].")
@home_option
@json_option
def doctor(
    run: str | None, device: str | None, max_batch: int | None, home: str | None, as_json: bool
) -> int:
    """Look for what keeps a node from working here; --fit measures a run before any lease.

    Ends with 0, or 1 if a check failed; 6 if there is no usable device or the path does not fit.
    """
    config = config_of(home, {"compute.device": device, "compute.max_batch": max_batch})
    manifest = _manifest(run, config.home) if run else None
    if manifest is not None:
        check_moment_bits(config.compute.moment_bits, manifest)
    found, fit = _examine(config, manifest, quiet=as_json)
    if as_json:
        document = {"checks": found, "fit": fit_table(fit) if fit else None}
        click.echo(msgspec.json.encode(document).decode())
    elif fit is not None:
        click.echo(fit_words(fit))
    failed = {check.name for check in found if check.verdict == "fail"}
    if "device" in failed or (fit is not None and fit.chosen is None):
        return Exit.NO_DEVICE
    return Exit.ERROR if failed else Exit.OK


def _manifest(run: str, home: Path) -> "Manifest":
    from dipaco.cli.local_run import local_run
    from dipaco.cli.runs_known import named_run

    if run.endswith(".toml"):
        return local_run(Path(run), seed=0, rounds=None).run.manifest
    return named_run(run, home).manifest


def _examine(
    config: "NodeConfig", manifest: "Manifest | None", *, quiet: bool
) -> "tuple[list[Check], FitReport | None]":
    """Make all checks, and the measurements if a run was named; say each as soon as it is known."""
    from dipaco.node.doctor import checks, source

    found: list[Check] = []

    def note(check: "Check") -> None:
        found.append(check)
        if not quiet:
            click.echo(check_words(check))

    for check in checks(config, daemon=_daemon(config.home)):
        note(check)
    if manifest is not None:
        note(source(manifest, local_files=config.run.local_sources))
    device, fit = _measure(config, manifest)
    note(device)
    return found, fit


def _daemon(home: Path) -> int | None:
    """Return the process id of the daemon that runs in `home`."""
    from dipaco.node.api.client import ask_status
    from dipaco.node.api.values import NoDaemon

    try:
        return ask_status(home).pid
    except NoDaemon:
        return None


def _measure(config: "NodeConfig", manifest: "Manifest | None") -> "tuple[Check, FitReport | None]":
    """Have a worker process in a home of its own look at the device and measure the path."""
    import tempfile
    from dataclasses import replace

    import trio

    from dipaco.node.doctor import device
    from dipaco.node.fit import find_fit
    from dipaco.node.storage.files import Home
    from dipaco.node.training.jobs import Describe, Described
    from dipaco.node.training.worker import Worker
    from dipaco.node.wiring import worker_settings

    async def ask(folder: Path) -> "tuple[Check, FitReport | None]":
        settings = replace(worker_settings(config, Home(folder)), niceness=0)
        worker = Worker(settings, lambda line: None)
        try:
            answer = await worker.run(Describe(), lambda progress: None)
            check = device(answer, config.compute.device)
            if manifest is None or not isinstance(answer, Described):
                return check, None
            with _display(manifest.name) as show:
                fit = await find_fit(
                    manifest,
                    worker,
                    answer,
                    max_batch=config.compute.max_batch,
                    options=settings.options,
                    on_try=show,
                )
            return check, fit
        finally:
            await worker.close()

    with tempfile.TemporaryDirectory(prefix="dipaco-") as folder:
        return trio.run(ask, Path(folder))


@contextmanager
def _display(name: str) -> "Iterator[Callable[[Try], None]]":
    """Say on a terminal how far the measuring is; to a pipe nothing."""
    if not sys.stderr.isatty():
        yield lambda tried: None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"measuring {name}: micro-batch 1") as status:
        yield lambda tried: status.update(f"measuring {name}: {tried.micro_batch} done")


def check_words(check: "Check") -> str:
    """Return a check as a line, and its cure as another."""
    line = f"{check.verdict:<5} {check.name:<10} {check.words}"
    return f"{line}\n{'':<17}{check.cure}" if check.cure else line


def fit_table(fit: "FitReport") -> dict[str, object]:
    """Return a fit for programs: what was measured, and what it comes to."""
    chosen = fit.chosen
    derived: dict[str, object] = {
        "fits": chosen is not None,
        "chosen": chosen,
        "tokens_per_second": fit.tokens_per_second,
        "lease_seconds": fit.lease_seconds,
        "settings": fit.settings,
    }
    return msgspec.to_builtins(fit) | derived  # type: ignore[no-any-return]


def fit_words(fit: "FitReport") -> str:
    """Return a fit for people."""
    usable = fit.device.usable / 1e9
    lines = [
        f"\n{fit.run}: {fit.parameters:,} parameters a path, context {fit.context}, "
        f"batch {fit.batch}; {usable:.1f} GB usable on {fit.device.device}",
        f"{'micro-batch':>11}  {'checkpointing':>13}  {'peak memory':>11}  {'tokens/s':>10}",
    ]
    for each in fit.tries:
        again = "yes" if each.checkpointing else "no"
        peak = f"{each.peak / 1e9:.2f} GB" if each.peak else "too much"
        rate = f"{fit.rate(each):,.0f}" if each.fits else "does not fit"
        lines.append(f"{each.micro_batch:>11}  {again:>13}  {peak:>11}  {rate:>10}")
    return "\n".join([*lines, _conclusion(fit)])


def _conclusion(fit: "FitReport") -> str:
    if fit.chosen is None:
        if not fit.tries:
            return f"does not fit: weights, gradients and moments are {fit.least / 1e9:.1f} GB"
        how = " with checkpointing" if fit.tries[-1].checkpointing else ""
        return f"does not fit: one sequence at a time{how} needs more than is usable"
    settings = ", ".join(f"{key} = {value}" for key, value in fit.settings.items()) or "nothing"
    with_ = "with" if fit.chosen.checkpointing else "without"
    return (
        f"fits: micro-batches of {fit.chosen.micro_batch}, {with_} checkpointing, "
        f"{fit.tokens_per_second:,.0f} tokens/s\n"
        f"a lease of {fit.inner_steps} steps takes {duration(fit.lease_seconds)}; it fetches at "
        f"most {fit.down / 1e6:.1f} MB and hands in {fit.up / 1e6:.1f} MB\n"
        f"a round of {fit.paths} paths would take this device alone "
        f"{duration(fit.paths * fit.lease_seconds)}\n"
        f"set: {settings}"
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
