"""The reference run behind `dipaco-node reference`: settings, progress, report."""

import os
import time
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from dipaco.cli.local_run import run_named
from dipaco.cli.report import Report, build
from dipaco.node.accounts import Account, account_of, keep_account
from dipaco.node.api.values import EvaluationView
from dipaco.node.runs import keep_run
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.training.jobs import Progress
from dipaco.node.training.reference import ReferenceResult, run_reference
from dipaco.node.training.worker import WorkerSettings
from dipaco.protocol.ledger import Evaluated
from dipaco.protocol.manifest import Manifest


def run_single(name: str, *, seed: int, rounds: int | None, home: Path, device: str) -> Report:
    """Train the run `name` (a .run file, a TOML file, or empty: the demo) and report.

    The home then has the run, its states and an account of them: `eval` and the like work there.
    """
    blobs = BlobStore(Home.at(home).blobs)
    local = run_named(name, seed=seed, rounds=rounds, blobs=blobs)
    if local.tokenizer is not None:
        blobs.write(local.tokenizer)
    settings = WorkerSettings(home=home, device=device, threads=1, local_sources=True)
    os.environ.update(settings.environment())
    manifest, began = local.run.manifest, time.monotonic()
    with Console(stderr=True).status("router") as status:
        result = run_reference(manifest, settings, Shown(status))
    keep_run(home, local.run)
    keep_account(home, local.run.id, _account(manifest, result))
    return report_of(manifest, result, time.monotonic() - began)


def _account(manifest: Manifest, result: ReferenceResult) -> Account:
    evaluations = (
        Evaluated(
            path=path,
            version=version,
            peer=manifest.owner,
            documents=found.documents,
            tokens=found.tokens,
            nll=found.nll,
        )
        for (version, path), found in result.evaluations.items()
    )
    return account_of(result.specs, result.states, evaluations)


class Shown:
    """Progress on stderr: one line that changes on a terminal, else a line for each piece."""

    def __init__(self, status: Status) -> None:
        self._status, self._what = status, ""

    def __call__(self, what: str, progress: Progress) -> None:
        """Show how far `what` is."""
        if not self._status.console.is_terminal:
            if what != self._what:
                self._status.console.print(Text(what))
            self._what = what
            return
        speed = f"  {progress.rate:.0f} {progress.unit}/s" if progress.rate else ""
        loss = f"  loss {progress.loss:.3f}" if progress.loss is not None else ""
        step = f"{progress.done} of {progress.total or '?'}"
        self._status.update(Text(f"{what}: {progress.stage} {step}{speed}{loss}"))


def report_of(manifest: Manifest, result: ReferenceResult, seconds: float) -> Report:
    """Return the report of a finished reference run."""
    return build(
        "reference",
        manifest,
        completed=True,
        seconds=seconds,
        states={
            module: {version: digest.hex() for version, digest in enumerate(digests)}
            for module, digests in result.states.items()
        },
        evaluations=[
            EvaluationView(
                path=path,
                version=version,
                documents=found.documents,
                tokens=found.tokens,
                nll=found.nll,
                peer=manifest.owner,
            )
            for (version, path), found in result.evaluations.items()
        ],
    )
