"""The spot check: scores a random sample of one sheet again, before training by the new router.

This node alone draws the sheet and its rows, so no peer knows beforehand which scores are checked.
If the scores cannot be repeated here (no peer holds a module any more, or memory is short), the
check is left out and the log says so. Source: docs/method.md, section 5.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.jobs.values import Rescore
from dipaco.node.kinds.base import Work
from dipaco.node.kinds.state import LedgerSource
from dipaco.node.kinds.table import SCORE
from dipaco.node.network.exchange import Exchange
from dipaco.node.routing.sheets import read_scores, standing_sheet
from dipaco.node.runs.record import RunRecord
from dipaco.node.status.activity import Activity
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from dipaco.protocol.numbers import count
from dipaco.protocol.routing.labels import Scores, contradictions
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import TOKEN_BYTES, Scored, ScoreResult

log = logging.getLogger(__name__)

DOCUMENTS = 16  # of one sheet

Below = Callable[[int], int]
"""Draws an integer in 0 to n - 1."""


@dataclass(frozen=True)
class Sampled:
    """Some rows of one sheet."""

    entry: Scored
    rows: tuple[int, ...]
    scores: Scores
    """The sheet's scores of these rows, (rows,)."""


def draw_rows(
    record: RunRecord, blobs: BlobStore, *, count: int, below: Below = secrets.randbelow
) -> Sampled:
    """Draw `count` rows of a sheet that stands; raises Unavailable if it is not in the store."""
    reshard, sheets = record.manifest.routing.reshard, list(record.state.scored.values())
    if reshard is None or not sheets:
        raise Unavailable("no scores stand in the ledger yet")
    given = sheets[below(len(sheets))]
    entry = standing_sheet(blobs, reshard, given)
    if entry is None:
        raise Unavailable(f"no scores of path {given[0].path} stand in the ledger")
    scores = read_scores(blobs, entry.sheet)
    left = list(range(len(scores)))
    rows = tuple(sorted(left.pop(below(len(left))) for _ in range(min(count, len(scores)))))
    return Sampled(entry, rows, scores[list(rows)])


def rescoring(record: RunRecord, spec: RouterSpec, sampled: Sampled) -> Rescore:
    """Return the job that scores the sample again. spec: of epoch 0."""
    reshard, entry = record.manifest.routing.reshard, sampled.entry
    if reshard is None:
        raise LocalProtocolError("a run without re-sharding has no scores")
    work = Work(SCORE, entry.path, reshard.after_round, entry.window)
    no_token = bytes(TOKEN_BYTES)
    lease = SCORE.lease(LedgerSource(record.run, record.state), work, no_token)
    return Rescore(manifest=record.manifest, spec=spec, lease=lease, rows=sampled.rows)


def compare(record: RunRecord, sampled: Sampled, ours: Scores) -> str:
    """Return the first contradiction between the sheet and our scores; empty if there is none."""
    reshard = record.manifest.routing.reshard
    assert reshard is not None
    wrong = contradictions(sampled.scores, ours, reshard.tolerance)
    if not len(wrong):
        return ""
    place, entry = int(wrong[0]), sampled.entry
    return (
        f"router document {sampled.rows[place]} of window {entry.window}: path {entry.path} is "
        f"claimed to score {sampled.scores[place]}, here it scores {ours[place]}, more than "
        f"{2 * reshard.tolerance} apart ({len(wrong)} of {len(ours)} checked)"
    )


@dataclass(frozen=True)
class SpotCheck:
    """Scores a random sample again; the daemon owns all its parts."""

    blobs: BlobStore
    exchange: Exchange
    worker: JobRunner
    activity: Activity
    blame: Callable[[PeerId, str], Awaitable[None]]
    """Lowers a peer's reputation, and disconnects it."""
    below: Below = secrets.randbelow

    async def contradiction(self, record: RunRecord) -> str:
        """Score a random sample again; return a contradiction, empty if there is none."""
        held = record.adopted(0)
        assert held is not None
        try:
            sampled = draw_rows(record, self.blobs, count=DOCUMENTS, below=self.below)
            ours = await self._scores(record, rescoring(record, held.spec, sampled))
        except Unavailable as away:
            log.warning("no spot check of the scores: %s", away)
            return ""
        except RemoteProtocolError as error:
            return str(error)
        found = compare(record, sampled, ours)
        log.info("spot check of %s: %s", count(len(ours), "score"), found or "none contradicts")
        if found:
            await self.blame(sampled.entry.peer, f"gave scores that are refuted: {found}")
        return found

    async def _scores(self, record: RunRecord, job: Rescore) -> Scores:
        top = record.state.topology
        for state, module in zip(job.lease.modules, top.path_modules[job.lease.path], strict=True):
            await self.exchange.fetch(
                state.digest,
                length=top.state_bytes(module),
                holders=record.manifest.schedule.schedulers,
            )
        activity = self.activity.of(record.run)
        activity.say("spot-check", count=len(job.rows), path=job.lease.path)
        with activity.timed("spot-check"):
            answer = await self.worker.run(job, lambda progress: None)
        if not isinstance(answer, ScoreResult):
            raise Unavailable(f"the scores cannot be repeated here: {answer}")
        ours = read_scores(self.blobs, answer.sheet)
        if len(ours) != len(job.rows):
            raise LocalProtocolError(
                f"the spot check returned {count(len(ours), 'score')} for "
                f"{count(len(job.rows), 'document')}"
            )
        return ours
