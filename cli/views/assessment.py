"""The report of `eval`: routed perplexity, as JSON and as a table."""

from typing import Any, Final

import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.table import Table

from dipaco.cli.views.layout import Column, fitted_table, table_console
from dipaco.cli.views.text import label
from dipaco.node.models.assessment import Assessment
from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.protocol.numbers import count
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.work.kinds import Evaluation
from dipaco.protocol.work.losses import (
    bits_per_byte,
    bits_text,
    perplexity,
    stated_bytes,
    sum_if_known,
    vocabulary_text,
)


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
    bytes: int | None
    """UTF-8 bytes of text that the scored tokens stand for."""
    bits_per_byte: float | None


class PathScore(Score, frozen=True, kw_only=True):
    """The score of one path's documents."""

    path: int
    experts: tuple[int, ...]
    version: int
    """The version of its modules."""


class DomainScore(Score, frozen=True, kw_only=True):
    """The score of the documents of one domain."""

    domain: str


class Pass(Score, frozen=True, kw_only=True):
    """One pass over the documents, all paths together."""

    reroute: int | None
    """Tokens after which a document is routed again; null: never."""
    paths: tuple[PathScore, ...]
    domains: tuple[DomainScore, ...]
    """By name; empty without a column of domains."""


class AssessmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report of `eval`."""

    schema: int = 1
    name: str
    run: str
    """Run id, hex."""
    spec: str
    """Digest of the router spec, hex."""
    vocabulary: int
    """Token ids of the run's tokenizer: perplexities of two vocabularies do not compare."""
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
        vocabulary=checkpoint.manifest.tokenizer.vocabulary,
        data=data,
        left_out=left_out,
        passes=tuple(_pass(checkpoint, each) for each in found),
    )


def _pass(checkpoint: Checkpoint, found: Assessment) -> Pass:
    grid, own = checkpoint.manifest.grid, found.paths.values()
    size = sum_if_known(map(stated_bytes, own))
    total = Evaluation(
        documents=sum(each.documents for each in own),
        tokens=sum(each.tokens for each in own),
        nll=sum(each.nll for each in own),
        bytes=UNSET if size is None else size,
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
    domains = tuple(DomainScore(domain=d, **_score(each)) for d, each in found.domains.items())
    return Pass(reroute=found.window, paths=paths, domains=domains, **_score(total))


def _score(found: Evaluation) -> dict[str, Any]:
    known = found.tokens > 0
    return {
        "documents": found.documents,
        "tokens": found.tokens,
        "nll": found.nll,
        "loss": found.nll / found.tokens if known else None,
        "perplexity": perplexity(found.nll, found.tokens),
        "bytes": stated_bytes(found),
        "bits_per_byte": bits_per_byte(found.nll, stated_bytes(found)),
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
    if any(each.domains for each in report.passes):
        console.print(_domain_table(report, console.width))
    if report.left_out:
        console.print(f"{count(report.left_out, 'row')} left out: too short for the router")


FIGURES: Final = (
    Column("documents", drop=4),
    Column("tokens", drop=3),
    Column("loss", drop=5),
    Column("perplexity"),
    Column("bits/byte", drop=1),
)
ROUTED: Final = Column("routed", words=True, drop=2)
COLUMNS: Final = (ROUTED, Column("path", words=True), Column("version", drop=6), *FIGURES)
DOMAIN_COLUMNS: Final = (ROUTED, Column("domain", words=True), *FIGURES)


def _table(report: AssessmentReport, width: int) -> Table:
    text = report.data or "held-out documents"
    rows: list[tuple[str, ...]] = []
    ends = set()
    for each in report.passes:
        routed = _routed(each)
        for path in each.paths:
            name = f"{path.path} {label(path.experts)}"
            rows.append((routed, name, str(path.version), *_cells(path)))
            routed = ""
        ends.add(len(rows))
        rows.append((routed, "all", "", *_cells(each)))
    title = f"{report.name}: routed perplexity ({vocabulary_text(report.vocabulary)}), {text}"
    return fitted_table(title, COLUMNS, rows, width, ends=ends)


def _domain_table(report: AssessmentReport, width: int) -> Table:
    rows: list[tuple[str, ...]] = []
    ends = set()
    for each in report.passes:
        routed = _routed(each)
        for domain in each.domains:
            rows.append((routed, domain.domain, *_cells(domain)))
            routed = ""
        ends.add(len(rows) - 1)
    return fitted_table("by domain", DOMAIN_COLUMNS, rows, width, ends=ends)


def _routed(found: Pass) -> str:
    return "once" if found.reroute is None else f"every {count(found.reroute, 'token')}"


def _cells(found: Score) -> tuple[str, ...]:
    loss = "-" if found.loss is None else f"{found.loss:.4f}"
    shown = "-" if found.perplexity is None else f"{found.perplexity:.2f}"
    bits = bits_text(found.bits_per_byte)
    return str(found.documents), str(found.tokens), loss, shown, bits
