"""The outcome of `verify` for programs, and of `verify --history` for people too."""

from collections.abc import Iterator

import msgspec

from dipaco.node.runs.files import RunFile
from dipaco.node.status.document import Verdict
from dipaco.node.verification.history import BegunTerm, History
from dipaco.protocol.numbers import count


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `verify --json`."""

    run: str
    """Run id, hex."""
    spec: str
    """Digest of the router spec that is judged, hex; empty: there was none."""
    own: str
    """Digest of the spec that is derived here, hex; empty: none could be derived."""
    verdict: Verdict
    """`verified`, `refuted` or `unverifiable`."""
    stage: str
    """The first stage that differs, or at which no comparison is possible; else empty."""
    reason: str
    """One line for people."""


class HistoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `verify --history --json`; nothing of the ledger is wrong."""

    run: str
    """Run id, hex."""
    records: int
    """Number of records of the ledger."""
    final: int
    """Number of records that are known to be final."""
    terms: list[int]
    """The terms that have records."""
    redone: int
    """Number of outer steps that were taken again, with the digests of the ledger."""
    unchecked: list[str]
    """What could not be checked, in words."""


def history_report(run: RunFile, found: History) -> HistoryReport:
    """Return what was checked, for programs."""
    return HistoryReport(
        run=run.id.hex(),
        records=found.records,
        final=found.final,
        terms=[each.term for each in found.terms],
        redone=found.redone,
        unchecked=list(found.unchecked),
    )


def history_text(run: RunFile, found: History) -> str:
    """Return what was checked and what was not, line by line."""
    return "\n".join(_history_lines(run, found))


def _history_lines(run: RunFile, found: History) -> Iterator[str]:
    yield (
        f"{run.manifest.name} (run {run.id.hex()}): {count(found.records, 'record')}, each signed "
        "by the scheduler of its term, in its place, and one that can follow"
    )
    for each in found.terms:
        yield f"term {each.term}, from record {each.first}: {each.scheduler}{_right(each)}"
    if found.signers:
        yield f"final: the first {found.final} records, signed by {count(found.signers, 'keeper')}"
    if found.redone:
        yield f"{count(found.redone, 'outer step')} taken again: all give the ledger's digests"
    for reason in found.unchecked:
        yield f"not checked: {reason}"
    yield "not looked at here: routers (verify), inner steps (reference --ledger)"


def _right(term: BegunTerm) -> str:
    if term.promises is not None:
        return f", with the promises of {count(term.promises, 'keeper')}"
    return "" if term.term == 0 else ", granted by the run's owner"
