"""`dipaco-node verify`: derive a run's router from its public source and compare."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.bars import progress_bar
from dipaco.cli.exits import Exit
from dipaco.cli.options import home_of, home_option, json_option

if TYPE_CHECKING:
    from dipaco.node.runs import RunFile
    from dipaco.protocol.spec import RouterSpec
    from dipaco.protocol.verdict import Derivation, Verdict

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("name", metavar="[RUN]", default="")
@click.option("--spec", type=FILE, help="The spec to judge [the one the run's ledger adopted].")
@click.option("--out", type=FILE, help="Write our own spec here.")
@click.option("--local-sources", is_flag=True, help="The run may name local files.")
@home_option
@json_option
def verify(
    name: str,
    spec: Path | None,
    out: Path | None,
    local_sources: bool,
    home: str | None,
    as_json: bool,
) -> int:
    """Derive the router again; RUN is a run file, or an id or name known to this node.

    Ends with 0 if the specs are the same, 4 if they differ, 5 if it cannot be told.
    """
    from dipaco.cli.runs_known import named_run
    from dipaco.node.storage.files import write_file
    from dipaco.protocol.canonical import encode
    from dipaco.protocol.routing.recipe import recipe_of
    from dipaco.protocol.verdict import Derived, judge, static_check

    folder = home_of(home)
    run = named_run(name, folder)
    recipe = recipe_of(run.manifest)
    claimed = _claimed(run, spec, folder)
    verdict = static_check(recipe, claimed) if claimed else None
    derivation = None
    if verdict is None or out is not None:
        derivation = _derive(run, folder, local_sources)
        if out is not None and isinstance(derivation, Derived):
            write_file(out, encode(derivation.spec))
    if claimed is not None and verdict is None:
        assert derivation is not None
        verdict = judge(recipe, claimed, derivation)
    return _say(run, claimed, derivation, verdict, as_json=as_json)


def _say(
    run: "RunFile",
    claimed: "RouterSpec | None",
    derivation: "Derivation | None",
    verdict: "Verdict | None",
    *,
    as_json: bool,
) -> int:
    """Print the outcome and return its exit code; without a verdict there was none to judge."""
    from dipaco.protocol.spec import spec_digest
    from dipaco.protocol.verdict import Derived, Outcome

    own = spec_digest(derivation.spec).hex() if isinstance(derivation, Derived) else ""
    stage: str
    if verdict is not None:
        words = f"{run.manifest.name}: {verdict}"
        outcome, stage, reason = verdict.outcome, verdict.stage, verdict.reason
    else:
        outcome, stage, reason = Outcome.UNVERIFIABLE, "", _unjudged(derivation, own)
        words = f"{run.manifest.name}: {reason}"
    if as_json:
        table = {
            "run": run.id.hex(),
            "spec": spec_digest(claimed).hex() if claimed else "",
            "own": own,
            "verdict": outcome,
            "stage": stage,
            "reason": reason,
        }
        words = json.dumps(table)
    click.echo(words)
    return {
        Outcome.VERIFIED: Exit.OK,
        Outcome.REFUTED: Exit.REFUSED,
        Outcome.UNVERIFIABLE: Exit.UNVERIFIABLE,
    }[outcome]


def _unjudged(derivation: "Derivation | None", own: str) -> str:
    from dipaco.protocol.verdict import LocalFailure, SourceFailure

    if isinstance(derivation, SourceFailure | LocalFailure):
        return f"no spec could be derived: {derivation.reason}"
    return f"our own spec is {own}; there is none to compare it with: give --spec FILE"


def _claimed(run: "RunFile", file: Path | None, home: Path) -> "RouterSpec | None":
    """Return the spec of `file`, else the one that the run's ledger adopted, as far as known."""
    from dipaco.cli.runs_known import record_of

    if file is not None:
        return read_spec(file)
    record = record_of(run.id, home)
    if record is None or record.view.spec not in record.specs:
        return None
    return record.specs[record.view.spec].spec


def read_spec(path: Path) -> "RouterSpec":
    """Read a spec, bare or signed; raises ConfigError if it cannot be read, Refusal if wrong."""
    from dipaco.node.storage.files import read_file
    from dipaco.protocol.canonical import decode
    from dipaco.protocol.errors import Refusal, RemoteProtocolError
    from dipaco.protocol.signed import MAX_BODY, MAX_ENVELOPE, Signed, open_signed
    from dipaco.protocol.spec import RouterSpec

    data = read_file(path, limit=MAX_ENVELOPE)
    try:
        return open_signed(decode(data, Signed, limit=MAX_ENVELOPE), RouterSpec)
    except RemoteProtocolError:
        pass  # then it is a bare one
    try:
        return decode(data, RouterSpec, limit=MAX_BODY)
    except RemoteProtocolError as error:
        raise Refusal(f"{path}: not a router spec: {error}") from error


def _derive(run: "RunFile", home: Path, local_sources: bool) -> "Derivation":
    from dipaco.node.scheduling.verification import derivation_of
    from dipaco.node.training.jobs import Derive
    from dipaco.node.training.performer import Performer
    from dipaco.node.training.worker import WorkerSettings
    from dipaco.node.training.worker_process import perform

    performer = Performer(WorkerSettings(home=home, local_sources=local_sources))
    with progress_bar(f"router of {run.manifest.name}") as show:
        return derivation_of(perform(performer, Derive(manifest=run.manifest), show))
