"""`dipaco-node doctor`: checks this machine for faults, and measures whether a run fits."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import (
    config_of,
    config_option,
    home_of,
    home_option,
    json_option,
    json_text,
)
from dipaco.node.jobs.options import check_moment_bits

if TYPE_CHECKING:
    from dipaco.node.config import NodeConfig
    from dipaco.node.doctor.check import Check
    from dipaco.node.doctor.memory_fit import FitReport
    from dipaco.node.jobs.runner import Worker
    from dipaco.node.jobs.values import Described
    from dipaco.protocol.run.manifest import Manifest


WAYS: Final = ("sent", "received")


@click.command()
@click.option("--fit", "run", metavar="RUN", help="Run to measure: run file, TOML, id or name.")
@click.option("--device", metavar="D", help="auto, cpu, cuda:N or mps [auto].")
@click.option("--max-batch", type=int, metavar="N", help="Sequences of a micro-batch [all].")
@click.option("--prove-idle", is_flag=True, help="Measure what the running daemon uses: 30 s.")
@home_option
@config_option
@json_option
def doctor(
    run: str | None,
    device: str | None,
    max_batch: int | None,
    prove_idle: bool,
    home: str | None,
    as_json: bool,
) -> int:
    """Check this machine for faults; --fit measures a run before any lease.

    Ends with 0, or 1 if a check failed; 6 if there is no usable device or the path does not fit.
    """
    if prove_idle:
        return _prove_idle(home_of(home), as_json=as_json)
    config = config_of(home, {"compute.device": device, "compute.max_batch": max_batch})
    manifest = _manifest(run, config.home) if run else None
    if manifest is not None:
        check_moment_bits(config.compute.moment_bits, manifest)
    found, fit = _examine(config, manifest, quiet=as_json)
    from dipaco.cli.views.doctor import doctor_report, fit_text
    from dipaco.cli.views.layout import terminal_width

    if as_json:
        click.echo(json_text(doctor_report(found, fit)))
    elif fit is not None:
        click.echo(fit_text(fit, terminal_width()))
    failed = {check.name for check in found if check.verdict == "fail"}
    if "device" in failed or (fit is not None and fit.chosen is None):
        return Exit.NO_DEVICE
    return Exit.ERROR if failed else Exit.OK


def _prove_idle(home: Path, *, as_json: bool) -> int:
    """Measure the processes of the daemon of `home` for a while, and judge them."""
    import time

    from dipaco.cli.views.doctor import check_text, doctor_report
    from dipaco.cli.views.layout import terminal_width
    from dipaco.node.api.client import ask_status
    from dipaco.node.doctor.idle import SPAN_SECONDS, judged, snapshot, used_between

    first = ask_status(home)
    before, begun = snapshot(first.pid), time.monotonic()
    time.sleep(SPAN_SECONDS)
    used, seconds = used_between(before, snapshot(first.pid)), time.monotonic() - begun
    last = ask_status(home)  # after the measurement, whose cost it would be
    sent, received = (getattr(last.network, way) - getattr(first.network, way) for way in WAYS)
    found = judged(
        used, seconds, state=last.state, reason=last.reason.text, traffic=sent + received
    )
    lines = (check_text(check, terminal_width()) for check in found)
    click.echo(json_text(doctor_report(found, None)) if as_json else "\n".join(lines))
    return Exit.ERROR if any(check.verdict == "fail" for check in found) else Exit.OK


def _manifest(run: str, home: Path) -> "Manifest":
    from dipaco.cli.testnet.local_run import local_run
    from dipaco.node.runs.known import named_run

    if run.endswith(".toml"):
        return local_run(Path(run), seed=0, rounds=None).run.manifest
    return named_run(run, home).manifest


def _examine(
    config: "NodeConfig", manifest: "Manifest | None", *, quiet: bool
) -> "tuple[list[Check], FitReport | None]":
    """Make all checks, and the measurements if a run was named; print each result at once."""
    from dipaco.cli.views.doctor import check_text
    from dipaco.cli.views.layout import terminal_width
    from dipaco.node.doctor.checks import checks, source

    found: list[Check] = []

    def note(check: "Check") -> None:
        found.append(check)
        if not quiet:
            click.echo(check_text(check, terminal_width()))

    daemon = _daemon(config.home)
    for check in checks(config, daemon=daemon):
        note(check)
    for check in _seen_from_outside(config) if daemon is not None else ():
        note(check)
    if manifest is not None:
        note(source(manifest, local_sources=config.run.local_sources))
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


def _seen_from_outside(config: "NodeConfig") -> "list[Check]":
    """Have the daemon ask its peers; nothing is checked if it ends meanwhile."""
    from dipaco.node.api.client import ask_outside
    from dipaco.node.api.values import NoDaemon
    from dipaco.node.doctor.outside import judged

    try:
        view = ask_outside(config.home)
    except NoDaemon:
        return []
    return judged(view, rendezvous=config.node.rendezvous)


def _measure(config: "NodeConfig", manifest: "Manifest | None") -> "tuple[Check, FitReport | None]":
    """Check the device and measure the path in a worker process with its own home."""
    import tempfile

    import trio
    from msgspec.structs import replace

    from dipaco.node.doctor.checks import device
    from dipaco.node.jobs.runner import Worker
    from dipaco.node.jobs.settings import settings_of
    from dipaco.node.jobs.values import Describe, Described

    async def ask(folder: Path) -> "tuple[Check, FitReport | None]":
        own = replace(config, home=folder, compute=replace(config.compute, nice=0))
        worker = Worker(settings_of(own), lambda line: None)
        try:
            answer = await worker.run(Describe(), lambda progress: None)
            check = device(answer, config.compute.device)
            if manifest is None or not isinstance(answer, Described):
                return check, None
            return check, await _fit(manifest, worker, answer, config)
        finally:
            await worker.close()

    with tempfile.TemporaryDirectory(prefix="dipaco-") as folder:
        return trio.run(ask, Path(folder))


async def _fit(
    manifest: "Manifest",
    worker: "Worker",
    device: "Described",
    config: "NodeConfig",
) -> "FitReport":
    """Measure micro-batch after micro-batch, and show each."""
    from dipaco.cli.views.progress import Work, display
    from dipaco.node.doctor.memory_fit import Try, find_fit

    title = f"measuring {manifest.name}"
    with display(title) as shown:

        def show(tried: Try) -> None:
            part = f"micro-batch {tried.micro_batch} measured"
            shown.show(Work(title=title, done=0, total=0, part=part))

        return await find_fit(manifest, worker, device, compute=config.compute, on_try=show)
