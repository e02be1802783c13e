"""Blobs that the next outer steps read and this node lacks: brought back, or said to be missing.

A state, momentum or residual that is gone (a damaged disk, an old copy of a home) is fetched from
whoever has it, or made again by the outer step that made it, where its inputs are still here. What
cannot be had blocks its module alone. It is tried again after growing pauses, and the run says
which blob it is, who had it last and what would help.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import trio

from dipaco.node.condition import Condition
from dipaco.node.jobs.values import OuterStep, Stepped
from dipaco.node.kinds.changes import DueStep
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.deps import SchedulerDeps
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.numbers import span
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed
from dipaco.protocol.wire.text import one_line
from dipaco.protocol.work.ledger import LedgerRecord, ModuleUpdated
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0  # between two looks at all modules; a step that is due looks at once
FIRST_PAUSE = 5.0  # s between two tries; it doubles
LONGEST_PAUSE = 300.0  # s; a person who brings the blob back waits no longer
LEDGER_BYTES = 1 << 20  # of records read at once


@dataclass(frozen=True)
class Missing:
    """A blob that an outer step needs and this node lacks."""

    blob: Digest
    what: str
    """`state`, `momentum` or `residual`."""
    module: ModuleId
    version: int
    """The version of the module that it belongs to."""
    holder: PeerId
    """The peer that had it last, as far as the ledger tells."""
    since: float = 0.0
    """When it was missed first, seconds."""
    tries: int = 0
    next_try: float = 0.0
    """Seconds, as `since`."""

    def failed(self, now: float) -> "Missing":
        """Return what is known after one more try that failed."""
        return replace(self, tries=self.tries + 1, next_try=now + pause_after(self.tries))

    def in_words(self, now: float) -> str:
        """Return what is missing, since when, and what would help."""
        return one_line(
            f"blocked: blob {short(self.blob)}, the {self.what} of module {self.module} version "
            f"{self.version}, last held by {short_peer(self.holder)}, missing for "
            f"{span(now - self.since)}; connect a node that has it, or put it back into the home "
            f"of {short_peer(self.holder)} from a copy; next try in "
            f"{span(max(0.0, self.next_try - now))}"
        )


def pause_after(tries: int) -> float:
    """Return the seconds until the next try, after so many."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries, 16))


def read_by_next_steps(view: RunState, rounds: Rounds, holder: PeerId) -> Iterator[Missing]:
    """Yield the blobs, as if missing, that each module's next outer step reads."""
    for module, states in view.states.items():
        version = view.version(module)
        if version >= rounds.last:
            continue
        residual = view.residual(module)
        yield Missing(states[-1], "state", module, version, holder)
        if module in view.momenta:
            yield Missing(view.momenta[module], "momentum", module, version, holder)
        if residual is not None:
            yield Missing(residual, "residual", module, version, holder)


class Recovery:
    """Brings back what one run's outer steps need."""

    def __init__(self, record: RunRecord, rounds: Rounds, deps: SchedulerDeps) -> None:
        self._record, self._rounds, self._deps = record, rounds, deps
        self._missing: dict[Digest, Missing] = {}
        self._noted = Condition()

    def why(self, now: float) -> str:
        """Return why outer steps cannot be taken; empty: none lacks a blob."""
        tried = (each for each in self._missing.values() if each.tries)
        first = min(tried, key=lambda each: each.since, default=None)
        return first.in_words(now) if first else ""

    def lacks(self, step: DueStep) -> bool:
        """Return whether a blob is missing that an outer step reads, deltas apart."""
        has = self._deps.blobs.has
        inputs = (step.state, step.momentum, step.residual)
        lost = any(blob is not None and not has(blob) for blob in inputs)
        if lost:
            self._look()
        return lost

    def _look(self) -> None:
        now, has = trio.current_time(), self._deps.blobs.has
        me = self._record.scheduler
        found = {
            each.blob: each
            for each in read_by_next_steps(self._record.state, self._rounds, me)
            if not has(each.blob)
        }
        fresh = found.keys() - self._missing.keys()
        for blob in self._missing.keys() - found.keys():
            del self._missing[blob]
        for blob in fresh:
            self._missing[blob] = replace(found[blob], since=now, next_try=now)
        if fresh:
            self._noted.notify()

    async def serve(self) -> None:
        """Look for what is missing and bring it back, until cancelled."""
        while True:
            self._look()
            now = trio.current_time()
            for each in tuple(self._missing.values()):
                if each.next_try <= now:
                    await self._deps.guard.attempt("bringing back a blob", None, self._try, each)
            soon = min((each.next_try for each in self._missing.values()), default=now + 1e9)
            with trio.move_on_at(min(soon, now + LOOK_SECONDS)):
                await self._noted.wait()

    async def _try(self, missing: Missing) -> None:
        try:
            await self._bring(missing)
        except Unavailable as away:  # a full disk, too: there may be room at the next try
            found = self._missing.get(missing.blob, missing).failed(trio.current_time())
            self._missing[missing.blob] = found
            level = logging.WARNING if found.tries == 1 else logging.DEBUG
            log.log(level, "%s (%s)", found.in_words(trio.current_time()), away)
        else:
            self._missing.pop(missing.blob, None)
            log.info("blob %s of %s is here again", short(missing.blob), missing.module)
        self._deps.changed.notify()

    async def _bring(self, missing: Missing) -> None:
        """Fetch a blob or make it again; raises Unavailable."""
        length = self._record.state.topology.state_bytes(missing.module)
        try:
            await self._deps.exchange.fetch(missing.blob, length=length, kind=missing.what)
        except Unavailable:
            if not await self._made_again(missing):
                raise

    async def _made_again(self, missing: Missing) -> bool:
        """Take the outer step once more that made a blob; returns whether that was possible."""
        job = self._step_again(missing.module, missing.version)
        if job is None:
            return False
        elements = self._record.state.topology.elements(missing.module)
        encoded = encoded_bytes(self._record.manifest.training.deltas, elements)
        inputs = {each.delta: encoded for each in job.contributions}
        for blob in (job.state, job.momentum, job.residual):
            if blob is not None:
                inputs[Digest(blob)] = 4 * elements
        try:
            for blob, length in inputs.items():
                await self._deps.exchange.fetch(Digest(blob), length=length, kind="other")
        except Unavailable:
            return False
        answer = await self._deps.worker.run(job, lambda progress: None)
        return isinstance(answer, Stepped) and self._deps.blobs.has(missing.blob)

    def _step_again(self, module: ModuleId, version: int) -> OuterStep | None:
        """Return the outer step that made a version, by the ledger."""
        made = {each.version: each for each in self._updates_of(module)}
        if version not in made:
            return None  # the seed model: no outer step made it
        before = made.get(version - 1)
        return OuterStep(
            manifest=self._record.manifest,
            module=module,
            state=self._record.state.states[module][version - 1],
            momentum=before.momentum if before else None,
            residual=before.quantised.residual if before and before.quantised else None,
            contributions=made[version].contributions,
        )

    def _updates_of(self, module: ModuleId) -> Iterator[ModuleUpdated]:
        first, store, run = 0, self._deps.run_store, self._record.run
        while part := store.read_ledger(run, first, LEDGER_BYTES):
            first += len(part)
            for data in part:
                signed = decode(data, Signed, limit=MAX_ENVELOPE)
                entry = decode(signed.body, LedgerRecord, limit=MAX_ENVELOPE).entry
                if isinstance(entry, ModuleUpdated) and entry.module == module:
                    yield entry
