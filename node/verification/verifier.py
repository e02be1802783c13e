"""Verification: derives the router again, compares one digest, and acts on the verdict.

It runs in every mode, before the first lease. The journal keeps a final verdict under the digest of
its spec, so a restart does not stream the sample again. REFUTED raises Refusal, which nothing
retries, after the node has told its peers. A failure that may pass is retried with back-off,
without end. Source: docs/method.md, 4.10; docs/data.md.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.jobs.values import Answer, Derive, DerivedAnswer, Failed, Progress
from dipaco.node.network.exchange import Exchange
from dipaco.node.runs.record import HeldSpec, RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.status.activity import Activity, so_far
from dipaco.node.status.document import TaskStatus
from dipaco.node.storage.journal import Journal
from dipaco.node.verification.spot_check import SpotCheck
from dipaco.node.verification.tokenizer import obtain_tokenizer
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable, Unverifiable
from dipaco.protocol.numbers import count, span
from dipaco.protocol.routing.decision import Decision, ReceiptTally, decide, may_pass
from dipaco.protocol.routing.labels import SCORE_BYTES
from dipaco.protocol.routing.policy import Policy
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import (
    Derivation,
    Derived,
    LocalFailure,
    Outcome,
    Receipt,
    SourceFailure,
    Verdict,
    contradicted,
    judge,
    static_check,
)
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import short
from dipaco.protocol.wire.identity import PeerId, peer_id, short_peer
from dipaco.protocol.wire.messages import Item
from dipaco.protocol.wire.signed import sign

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0
MAX_VERDICT_BYTES = 4096


@dataclass(frozen=True)
class Verifier:
    """Verifies the specs of runs; the daemon owns all its parts."""

    key: Ed25519PrivateKey
    run_store: RunStore
    journal: Journal
    worker: JobRunner
    exchange: Exchange
    activity: Activity
    policy: Policy
    software: str
    """Name and version, for receipts."""
    blame: Callable[[PeerId, str], Awaitable[None]]
    """Lowers a peer's reputation, and disconnects it."""
    spot_check: SpotCheck
    spread: Callable[[Item, int], Awaitable[int]]
    """Sends an item, with its size in bytes, to all peers; returns how many hold it. Its time is
    bounded."""

    async def verified_spec(self, record: RunRecord, epoch: int = 0) -> RouterSpec:
        """Return the adopted spec of an epoch, once the policy allows training by it.

        Waits for the spec and for the receipts that the policy asks for. Retries with back-off what
        may pass: a source that is away, a worker that was killed. Raises Refusal when the spec is
        REFUTED, Unverifiable when it is UNVERIFIABLE and waiting cannot help.
        """
        wait = FIRST_RETRY_SECONDS
        while (found := await self._found(record, epoch, wait)) is None:
            wait = min(2 * wait, MAX_RETRY_SECONDS)
        if epoch and found.train and self._remembered(record, found.held) is None:
            found = found.with_contradiction(await self.spot_check.contradiction(record))
        return await self._conclude(record, found)

    async def derived_spec(self, record: RunRecord, epoch: int = 0) -> RouterSpec:
        """Return our own spec of a run, for its scheduler to publish; waits for the source."""
        wait = FIRST_RETRY_SECONDS
        while not isinstance(derivation := await self._derivation(record, epoch), Derived):
            if not may_pass(derivation):
                raise Unverifiable(
                    f"run {record.manifest.name}: no router can be derived: {derivation.reason}"
                )
            self._report_retry(record, derivation, wait)
            await trio.sleep(wait)
            wait = min(2 * wait, MAX_RETRY_SECONDS)
        return derivation.spec

    # ------------------------------------------------------------------ the claimed spec

    async def _found(self, record: RunRecord, epoch: int, wait: float) -> "_Finding | None":
        """Return the finding on the adopted spec, or None when it is time to derive again."""
        known = self._known(record, epoch)
        derivation = None if known else await self._derivation_unless_known(record, epoch)
        known = known or self._known(record, epoch)
        passing = derivation is not None and may_pass(derivation)
        if passing:
            assert derivation is not None
            self._report_retry(record, derivation, wait)
        # The only checkpoint in this scope is the wait, so the deadline cuts off no verdict.
        with trio.move_on_after(wait if passing else math.inf):
            while True:
                finding = self._judged(record, epoch, known, derivation, passing=passing)
                if finding is not None and finding.decide is not Decision.WAIT:
                    return finding
                if not passing:
                    self._report_wait(record, finding)
                await self.run_store.changed.wait()
        return None

    def _known(self, record: RunRecord, epoch: int) -> Verdict | None:
        """Return the verdict that needs no document: an earlier start's, or the manifest's own."""
        held = record.adopted(epoch)
        if held is None:
            return None
        remembered = self._remembered(record, held)
        return remembered or static_check(recipe_of(record.manifest, epoch=epoch), held.spec)

    def remembered(self, record: RunRecord) -> Verdict | None:
        """Return the verdict of an earlier start on the newest spec of a run."""
        held = record.newest()
        return self._remembered(record, held) if held else None

    def _remembered(self, record: RunRecord, held: HeldSpec) -> Verdict | None:
        data = self.journal.verdict(record.run, spec_digest(held.spec))
        try:
            return decode(data, Verdict, limit=MAX_VERDICT_BYTES) if data else None
        except RemoteProtocolError as error:
            raise self.journal.foreign(error) from error

    def _judged(
        self,
        record: RunRecord,
        epoch: int,
        known: Verdict | None,
        derivation: Derivation | None,
        *,
        passing: bool,
    ) -> "_Finding | None":
        held = record.adopted(epoch)
        if held is None:
            return None
        if known is None:
            assert derivation is not None
            known = judge(recipe_of(record.manifest, epoch=epoch), held.spec, derivation)
        # If the manifest alone has decided meanwhile, no retry changes the verdict.
        passing = passing and known.stage in ("source", "tokenizer", "labels", "local")
        tally = record.tally(self.me, held)
        return _Finding(held, known, tally, decide(known, self.policy, tally, passing=passing))

    def _report_wait(self, record: RunRecord, finding: "_Finding | None") -> None:
        activity = self.activity.of(record.run)
        if finding is None:
            activity.say("no-spec", run=record.manifest.name)
        else:
            activity.say(
                "receipts",
                problem=finding.verdict.reason,
                verified=finding.tally.verified,
                quorum=self.policy.quorum,
            )

    # ------------------------------------------------------------------ our own derivation

    @property
    def me(self) -> PeerId:
        """The PeerID of this node."""
        return peer_id(self.key)

    async def _derivation_unless_known(self, record: RunRecord, epoch: int) -> Derivation | None:
        """Derive the spec, once; None if a spec is adopted meanwhile whose verdict is known."""
        derivation = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_once_known, record, epoch, nursery.cancel_scope)
            derivation = await self._derivation(record, epoch)
            nursery.cancel_scope.cancel()
        return derivation

    async def _cancel_once_known(
        self, record: RunRecord, epoch: int, scope: trio.CancelScope
    ) -> None:
        while self._known(record, epoch) is None:
            await self.run_store.changed.wait()
        scope.cancel()

    async def _derivation(self, record: RunRecord, epoch: int) -> Derivation:
        """Derive the spec of an epoch, once."""
        try:
            await obtain_tokenizer(record.manifest, self.exchange)
        except Unavailable as away:
            return SourceFailure(stage="tokenizer", reason=str(away))
        if epoch == 0:
            return await self._derive(record, Derive(manifest=record.manifest))
        try:
            return await self._derive(record, await self._resharding_job(record, epoch))
        except Unavailable as away:
            return SourceFailure(stage="labels", reason=str(away))

    async def _resharding_job(self, record: RunRecord, epoch: int) -> Derive:
        """Fetch the score sheets that the ledger names; return the job that derives by them."""
        previous = record.adopted(epoch - 1)
        if previous is None:
            raise Unavailable("the spec of the epoch before is not here")
        sheets = record.state.sheets()
        for each in sheets:
            await self.exchange.fetch(
                each.sheet.digest,
                length=SCORE_BYTES * each.sheet.documents,
                holders=record.manifest.schedule.schedulers,
            )
        return Derive(manifest=record.manifest, previous=previous.spec, sheets=sheets)

    def _report_retry(self, record: RunRecord, derivation: Derivation, wait: float) -> None:
        assert not isinstance(derivation, Derived)
        activity = self.activity.of(record.run)
        problem = derivation.reason
        if isinstance(derivation, SourceFailure):
            activity.say("source-away", problem=problem, wait=wait)
        else:
            activity.say("own-failure", problem=problem, wait=wait)
        log.warning("no router derived: %s; next try in %s", problem, span(wait))

    async def _derive(self, record: RunRecord, job: Derive) -> Derivation:
        name, activity = record.manifest.name, self.activity.of(record.run)

        def on_progress(progress: Progress) -> None:
            activity.say("deriving", run=name, stage=progress.stage, progress=so_far(progress))
            activity.task = TaskStatus(
                kind="derive",
                path=0,
                round=0,
                stage=progress.stage,
                done=progress.done,
                total=progress.total,
                unit=progress.unit,
                tokens_per_second=0.0,
                loss=None,
            )

        activity.say("deriving", run=name, stage="read", progress="")
        try:
            with activity.timed("derive"):
                answer = await self.worker.run(job, on_progress)
        finally:
            activity.task = None
        return derivation_of(answer)

    # ------------------------------------------------------------------ the outcome

    async def _conclude(self, record: RunRecord, found: "_Finding") -> RouterSpec:
        """Act on the verdict: return the spec to train by, or raise; no caller catches it."""
        held, verdict = found.held, found.verdict
        digest = spec_digest(held.spec)
        new = self.journal.verdict(record.run, digest) is None
        activity = self.activity.of(record.run)
        activity.verdict = verdict.outcome.value
        activity.verdict_reason = verdict.reason
        log.info("router spec=%s of run %s: %s", short(digest), record.manifest.name, verdict)
        if verdict.outcome is Outcome.REFUTED:
            activity.stage = verdict.stage
            activity.say("router", stage=verdict.stage, signer=short_peer(held.author))
        if verdict.final:
            self.journal.save_verdict(record.run, digest, encode(verdict))
            await self._publish_receipt(record, held, verdict, leaving=new and not found.train)
        if found.train:
            if verdict.outcome is not Outcome.VERIFIED:
                log.warning(
                    "training on an unverified router, by policy %s (verified by %s): %s",
                    self.policy,
                    count(found.tally.verified, "peer"),
                    verdict,
                )
            return held.spec
        if verdict.outcome is Outcome.REFUTED:
            await self.blame(held.author, f"published a router that is refuted: {verdict.reason}")
            raise Refusal(
                f"run {record.manifest.name}: the router of {short_peer(held.author)} differs at "
                f"stage {verdict.stage}: {verdict.reason}; this node does not train it"
            )
        activity.say("unverifiable", problem=verdict.reason, policy=self.policy)
        refuted = found.tally.refuted
        others = f", refuted by {count(refuted, 'peer')}" if refuted else ""
        raise Unverifiable(
            f"run {record.manifest.name}: the router cannot be verified ({verdict.stage}): "
            f"{verdict.reason}; the policy is {self.policy}{others}"
        )

    async def _publish_receipt(
        self, record: RunRecord, held: HeldSpec, verdict: Verdict, *, leaving: bool
    ) -> None:
        """Publish a receipt. `leaving`: this node ends next, so wait until its peers have it."""
        receipt = Receipt(
            manifest=record.run,
            spec=spec_digest(held.spec),
            verdict=verdict,
            software=self.software,
        )
        signed = sign(receipt, self.key)
        item = self.run_store.publish("receipt", signed)
        if leaving:
            reached = await self.spread(item, len(encode(signed)))
            log.info("receipt sent to %s", count(reached, "peer"))


@dataclass(frozen=True)
class _Finding:
    """A verdict on the adopted spec, and the policy's decision."""

    held: HeldSpec
    verdict: Verdict
    tally: ReceiptTally
    decide: Decision

    @property
    def train(self) -> bool:
        return self.decide is Decision.TRAIN

    def with_contradiction(self, contradiction: str) -> "_Finding":
        """Return this finding, refuted unless `contradiction` is empty."""
        if not contradiction:
            return self
        verdict = contradicted(contradiction)
        return replace(self, verdict=verdict, decide=Decision.STOP)


def derivation_of(answer: Answer) -> Derivation:
    """Return the derivation in the answer to `Derive`; a failed job is this machine's fault."""
    match answer:
        case DerivedAnswer(derivation=derivation):
            return derivation
        case Failed(reason=reason):
            return LocalFailure(reason=reason)
        case _:
            return LocalFailure(reason=f"a worker answered Derive with {type(answer).__name__}")
