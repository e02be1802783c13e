"""`dipaco-node verify`: derives a run's router from its public source, and compares."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.exits import Exit
from dipaco.cli.inputs import fetch_blobs, worker_settings
from dipaco.cli.options import OutFile, home_of, home_option, json_option

if TYPE_CHECKING:
    from dipaco.node.jobs.settings import WorkerSettings
    from dipaco.node.jobs.values import Answer, Job
    from dipaco.node.runs.files import RunFile
    from dipaco.node.verification.offline import Judged, OfflineVerification
    from dipaco.protocol.routing.spec import RouterSpec
    from dipaco.protocol.routing.verdict import Derivation

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--spec", type=FILE, help="The spec to judge [those that the run's ledger adopted].")
@click.option("--out", type=OutFile(), help="Write the last spec that is derived here to FILE.")
@click.option(
    "--labels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only repeat N scores of one sheet of the re-sharding, drawn at random.",
)
@click.option("--local-sources", is_flag=True, help="The run may name local files.")
@click.option(
    "--history", is_flag=True, help="Only check the run's whole ledger; RUN may be a ledger file."
)
@home_option
@json_option
def verify(
    name: str,
    spec: Path | None,
    out: Path | None,
    labels: int | None,
    local_sources: bool,
    history: bool,
    home: str | None,
    as_json: bool,
) -> int:
    """Derive the router again; RUN is a run file, or an id or name known to this node.

    If the ledger adopted a second router, after re-sharding, both are derived. Ends with 0 if the
    specs are the same, 4 if they differ, 5 if they cannot be compared. With --history, check the
    ledger's signatures, terms and finality, and take the outer steps again whose blobs are here:
    0 if all was checked, 4 if something is wrong, 5 if something could not be checked.
    """
    if history:
        if labels is not None or spec or out or local_sources:
            raise click.UsageError("--history excludes --spec, --out, --labels and --local-sources")
        return _history(name, home_of(home), as_json=as_json)
    if labels is not None and (spec or out):
        raise click.UsageError("--labels excludes --spec and --out")
    from dipaco.node.runs.known import named_run
    from dipaco.node.storage.files import write_file
    from dipaco.protocol.routing.verdict import Derived
    from dipaco.protocol.wire.canonical import encode

    folder = home_of(home)
    run = named_run(name, folder)
    settings = worker_settings(folder, {"run.local_sources": local_sources or None})
    verification = _verification(run, settings)
    if labels is not None:
        return _say(run, verification.rescore(labels), as_json=as_json)
    claims = verification.adopted() if spec is None else verification.up_to(read_spec(spec))
    judged = verification.judge_all(claims, derive=out is not None)
    if out is not None and isinstance(judged.derivation, Derived):
        write_file(out, encode(judged.derivation.spec))
    return _say(run, judged, as_json=as_json)


def _history(name: str, folder: Path, *, as_json: bool) -> int:
    """Check a whole ledger; returns the exit code."""
    import msgspec

    from dipaco.cli.views.verification import history_report, history_text
    from dipaco.node.runs.ledger_file import is_ledger, told_of
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.node.verification.history import check_history

    told = told_of(name, folder)
    origin = name if is_ledger(Path(name)) else f"{folder}: {told.run.manifest.name}"
    found = check_history(told, BlobStore(Home.at(folder).blobs), origin)
    if as_json:
        click.echo(msgspec.json.encode(history_report(told.run, found)).decode())
    else:
        click.echo(history_text(told.run, found))
    return Exit.UNVERIFIABLE if list(found.unchecked) else Exit.OK


def _verification(run: "RunFile", settings: "WorkerSettings") -> "OfflineVerification":
    """Return the verification of `run` in this process."""
    from dipaco.cli.views.progress import job_display
    from dipaco.node.runs.known import record_of
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.node.verification.offline import OfflineVerification
    from dipaco.node.worker.performer import Performer
    from dipaco.node.worker.process import perform

    home = settings.folder

    def perform_here(job: "Job") -> "Answer":
        with job_display(f"router of {run.manifest.name}") as show:
            return perform(Performer(settings), job, show)

    return OfflineVerification(
        run=run,
        record=record_of(run.id, home),
        blobs=BlobStore(Home.at(home).blobs),
        perform=perform_here,
        fetch=lambda wanted: fetch_blobs(run.id, wanted, home),
    )


def _say(run: "RunFile", judged: "Judged", *, as_json: bool) -> int:
    """Print the outcome and return its exit code. There is no verdict if there was no spec."""
    import msgspec

    from dipaco.cli.views.layout import show_text
    from dipaco.cli.views.verification import VerifyReport
    from dipaco.protocol.routing.spec import spec_digest
    from dipaco.protocol.routing.verdict import Derived, Outcome

    claimed, derivation, verdict = judged.claimed, judged.derivation, judged.verdict
    own = spec_digest(derivation.spec).hex() if isinstance(derivation, Derived) else ""
    stage: str
    if verdict is not None:
        text = f"{run.manifest.name}: {verdict}"
        outcome, stage, reason = verdict.outcome, verdict.stage, verdict.reason
    else:
        outcome, stage, reason = Outcome.UNVERIFIABLE, "", _unjudged(derivation, own)
        text = f"{run.manifest.name}: {reason}"
    if as_json:
        report = VerifyReport(
            run=run.id.hex(),
            spec=spec_digest(claimed).hex() if claimed else "",
            own=own,
            verdict=outcome.value,
            stage=stage,
            reason=reason,
        )
        click.echo(msgspec.json.encode(report).decode())
    else:
        show_text(text)
    return {
        Outcome.VERIFIED: Exit.OK,
        Outcome.REFUTED: Exit.REFUSED,
        Outcome.UNVERIFIABLE: Exit.UNVERIFIABLE,
    }[outcome]


def _unjudged(derivation: "Derivation | None", own: str) -> str:
    from dipaco.protocol.routing.verdict import LocalFailure, SourceFailure

    if isinstance(derivation, SourceFailure | LocalFailure):
        return f"no spec could be derived: {derivation.reason}"
    return f"our own spec is {own}; there is no other to compare it with: give --spec FILE"


def read_spec(path: Path) -> "RouterSpec":
    """Read a spec, bare or signed; raises ConfigError if it cannot be read, Refusal if wrong."""
    from dipaco.node.storage.files import read_file
    from dipaco.protocol.errors import Refusal, RemoteProtocolError
    from dipaco.protocol.routing.spec import RouterSpec
    from dipaco.protocol.wire.canonical import decode
    from dipaco.protocol.wire.signed import MAX_BODY, MAX_ENVELOPE, Signed, open_signed

    data = read_file(path, limit=MAX_ENVELOPE)
    try:
        return open_signed(decode(data, Signed, limit=MAX_ENVELOPE), RouterSpec)
    except RemoteProtocolError:
        pass  # it may be a bare spec
    try:
        return decode(data, RouterSpec, limit=MAX_BODY)
    except RemoteProtocolError as error:
        raise Refusal(f"{path}: not a router spec: {error}") from error
