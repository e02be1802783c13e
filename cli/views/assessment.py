"""The report of `eval`: routed perplexity, as JSON and as a table."""

from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from dipaco.cli.views.layout import Column, fitted_table, table_console
from dipaco.cli.views.report import perplexity
from dipaco.cli.views.text import label
from dipaco.node.models.assessment import Assessment
from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.protocol.numbers import count
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.work.kinds import Evaluation


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The score of some documents."""

    documents: int
    tokens: int
    """Scored tokens: those from the run's first scored position on."""
    nll: float
    """Summed, in nats."""
    loss: float | None
    """Nats per token; null if nothing was scored."""
    perplexity: float | None


class PathScore(Score, frozen=True, kw_only=True):
    """The score of one path's documents."""

    path: int
    experts: tuple[int, ...]
    version: int
    """The version of its modules."""


class Pass(Score, frozen=True, kw_only=True):
    """One pass over the documents, all paths together."""

    reroute: int | None
    """Tokens after which a document is routed again; null: never."""
    paths: tuple[PathScore, ...]


class AssessmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of `eval`."""

    schema: int = 1
    name: str
    run: str
    """Run id, hex."""
    spec: str
    """Digest of the router spec, hex."""
    data: str
    """The name of the file; empty: the run's held-out documents."""
    left_out: int
    """Number of rows of the file that are too short for the router."""
    passes: tuple[Pass, ...]
    """The pass that is routed once, then the re-routed ones."""


def assessment_report(
    checkpoint: Checkpoint, found: list[Assessment], *, data: str, left_out: int
) -> AssessmentReport:
    """Return the report of these assessments."""
    return AssessmentReport(
        name=checkpoint.manifest.name,
        run=checkpoint.run.id.hex(),
        spec=spec_digest(checkpoint.spec).hex(),
        data=data,
        left_out=left_out,
        passes=tuple(_pass(checkpoint, each) for each in found),
    )


def _pass(checkpoint: Checkpoint, found: Assessment) -> Pass:
    grid, own = checkpoint.manifest.grid, found.paths.values()
    total = Evaluation(
        documents=sum(each.documents for each in own),
        tokens=sum(each.tokens for each in own),
        nll=sum(each.nll for each in own),
    )
    paths = tuple(
        PathScore(
            path=path,
            experts=experts_of(grid, path),
            version=checkpoint.version(path),
            **_score(each),
        )
        for path, each in sorted(found.paths.items())
    )
    return Pass(reroute=found.window, paths=paths, **_score(total))


def _score(found: Evaluation) -> dict[str, Any]:
    known = found.tokens > 0
    return {
        "documents": found.documents,
        "tokens": found.tokens,
        "nll": found.nll,
        "loss": found.nll / found.tokens if known else None,
        "perplexity": perplexity(found.nll, found.tokens) if known else None,
    }


def print_assessment(
    report: AssessmentReport, *, as_json: bool, console: Console | None = None
) -> None:
    """Print the report for programs or for people; on stdout by default."""
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    console = console or table_console()
    console.print(_table(report, console.width))
    if report.left_out:
        console.print(f"{count(report.left_out, 'row')} left out: too short for the router")


COLUMNS: Final = (
    Column("routed", words=True, drop=1),
    Column("path", words=True),
    Column("version", drop=5),
    Column("documents", drop=3),
    Column("tokens", drop=2),
    Column("loss", drop=4),
    Column("perplexity"),
)


def _table(report: AssessmentReport, width: int) -> Table:
    what = report.data or "held-out documents"
    rows: list[tuple[str, ...]] = []
    ends = set()
    for each in report.passes:
        routed = "once" if each.reroute is None else f"every {count(each.reroute, 'token')}"
        for path in each.paths:
            name = f"{path.path} {label(path.experts)}"
            rows.append((routed, name, str(path.version), *_cells(path)))
            routed = ""
        ends.add(len(rows))
        rows.append((routed, "all", "", *_cells(each)))
    return fitted_table(
        f"{report.name}: routed perplexity, {what}", COLUMNS, rows, width, ends=ends
    )


def _cells(found: Score) -> tuple[str, ...]:
    loss = "-" if found.loss is None else f"{found.loss:.4f}"
    shown = "-" if found.perplexity is None else f"{found.perplexity:.2f}"
    return str(found.documents), str(found.tokens), loss, shown
