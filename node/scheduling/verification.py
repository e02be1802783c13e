"""Verification: derive the router again, compare one digest, and live by the outcome.

Always on, in every mode, before the first lease. A final verdict is remembered by spec digest in
the journal, so that a restart does not stream the sample again. REFUTED is a Refusal: it goes
straight up, through no retry. Source: docs/method.md, 4.10.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.board import Board, left
from dipaco.node.catalogue import Catalogue, HeldSpec, RunRecord
from dipaco.node.control.status import TaskStatus
from dipaco.node.data.embedded import embedded_tokenizer_path
from dipaco.node.network.exchange import Exchange
from dipaco.node.storage.journal import Journal
from dipaco.node.training.jobs import Answer, Derive, Failed, Progress
from dipaco.node.training.jobs import Derived as DerivedJob
from dipaco.node.training.worker import JobRunner
from dipaco.protocol.canonical import decode, encode
from dipaco.protocol.digest import short
from dipaco.protocol.errors import Refusal, Unavailable, Unverifiable
from dipaco.protocol.identity import PeerId, short_peer
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.signed import sign
from dipaco.protocol.spec import RouterSpec, spec_digest
from dipaco.protocol.verdict import (
    Derivation,
    Derived,
    LocalFailure,
    Outcome,
    Policy,
    Receipt,
    SourceFailure,
    Verdict,
    judge,
    static_check,
)

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0
MAX_VERDICT_BYTES = 4096


@dataclass(frozen=True)
class Verifier:
    """Verifies the specs of runs; the daemon owns all that it works with."""

    key: Ed25519PrivateKey
    catalogue: Catalogue
    journal: Journal
    worker: JobRunner
    exchange: Exchange
    board: Board
    policy: Policy
    software: str
    """Name and version, for receipts."""
    blame: Callable[[PeerId, str], Awaitable[None]]
    """Lowers a peer's standing."""

    async def verified_spec(self, record: RunRecord) -> RouterSpec:
        """Return the run's adopted spec once it may be trained by.

        Waits for the spec, for the source, for as long as it takes. Raises Refusal when the spec
        is REFUTED, Unverifiable when it cannot be told and the policy requires it.
        """
        held = self._adopted(record)
        verdict = self._remembered(record, held.spec) if held else None
        if held is None or verdict is None:
            if held and static_check(recipe_of(record.manifest), held.spec):
                derivation: Derivation = LocalFailure(reason="not needed")
            else:
                derivation = await self._derivation(record)
            held = await self._wait_for_spec(record)
            verdict = judge(recipe_of(record.manifest), held.spec, derivation)
        return await self._conclude(record, held, verdict)

    async def derived_spec(self, record: RunRecord) -> RouterSpec:
        """Return our own spec of a run, for its scheduler to publish; waits for the source."""
        derivation = await self._derivation(record)
        if not isinstance(derivation, Derived):
            raise Unverifiable(derivation.reason)
        return derivation.spec

    # ------------------------------------------------------------------ the claimed spec

    def _adopted(self, record: RunRecord) -> HeldSpec | None:
        return record.specs.get(record.view.spec) if record.view.spec else None

    async def _wait_for_spec(self, record: RunRecord) -> HeldSpec:
        while (held := self._adopted(record)) is None:
            self.board.say("no-spec", run=record.manifest.name)
            await self.catalogue.changed.wait()
        return held

    def _remembered(self, record: RunRecord, spec: RouterSpec) -> Verdict | None:
        """Return the final verdict of an earlier start, if there is one."""
        data = self.journal.verdict(record.run, spec_digest(spec))
        return decode(data, Verdict, limit=MAX_VERDICT_BYTES) if data else None

    # ------------------------------------------------------------------ our own derivation

    async def _derivation(self, record: RunRecord) -> Derivation:
        """Derive the spec; what is away is tried again, with back-off, for ever.

        Under the policy `warn` once is enough: the node trains without.
        """
        wait = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._obtain_tokenizer(record)
                derivation = await self._derive(record)
            except Unavailable as away:
                derivation = SourceFailure(stage="tokenizer", reason=str(away))
            if not isinstance(derivation, SourceFailure) or self.policy == "warn":
                return derivation
            self.board.say("source-away", problem=derivation.reason, wait=wait)
            log.warning("source: %s; next try in %.0f s", derivation.reason, wait)
            await trio.sleep(wait)
            wait = min(2 * wait, MAX_RETRY_SECONDS)

    async def _obtain_tokenizer(self, record: RunRecord) -> None:
        """Bring a tokenizer that is not shipped with this program into the store."""
        pinned = record.manifest.tokenizer
        if embedded_tokenizer_path(pinned.sha256) is None:
            await self.exchange.fetch(pinned.sha256, length=pinned.size)

    async def _derive(self, record: RunRecord) -> Derivation:
        name = record.manifest.name

        def on_progress(progress: Progress) -> None:
            self.board.say(
                "deriving",
                run=name,
                stage=progress.stage,
                done=progress.done,
                total=progress.total,
                left=left(progress),
            )
            self.board.task = TaskStatus(
                kind="derive",
                path=0,
                round=0,
                stage=progress.stage,
                done=progress.done,
                total=progress.total,
                tokens_per_s=0.0,
                loss=None,
            )

        self.board.say("deriving", run=name, stage="read", done=0, total=0, left="")
        with self.board.timed("derive"):
            answer = await self.worker.run(Derive(manifest=record.manifest), on_progress)
        self.board.task = None
        return derivation_of(answer)

    # ------------------------------------------------------------------ the outcome

    async def _conclude(self, record: RunRecord, held: HeldSpec, verdict: Verdict) -> RouterSpec:
        self._enter(record, held, verdict)
        if verdict.final:
            self.journal.save_verdict(record.run, spec_digest(held.spec), encode(verdict))
            self._publish_receipt(record, held.spec, verdict)
        if verdict.allows_training(self.policy):
            if verdict.outcome is not Outcome.VERIFIED:
                log.warning("training on an unverified router, as configured: %s", verdict)
            return held.spec
        if verdict.outcome is Outcome.REFUTED:
            await self.blame(held.author, f"published a router that is refuted: {verdict.reason}")
            raise Refusal(
                f"run {record.manifest.name}: the router of {short_peer(held.author)} differs at "
                f"stage {verdict.stage}: {verdict.reason}; this node does not train it"
            )
        raise Unverifiable(
            f"run {record.manifest.name}: the router cannot be verified ({verdict.stage}): "
            f"{verdict.reason}; the policy is require"
        )

    def _enter(self, record: RunRecord, held: HeldSpec, verdict: Verdict) -> None:
        board, digest = self.board, short(spec_digest(held.spec))
        board.verdict = verdict.outcome.value
        board.stage = verdict.stage if verdict.outcome is Outcome.REFUTED else ""
        log.info("router spec=%s of run %s: %s", digest, record.manifest.name, verdict)
        if verdict.outcome is Outcome.REFUTED:
            board.say("router", stage=verdict.stage, signer=short_peer(held.author))
        elif verdict.outcome is Outcome.UNVERIFIABLE:
            board.say("unverifiable", problem=verdict.reason)

    def _publish_receipt(self, record: RunRecord, spec: RouterSpec, verdict: Verdict) -> None:
        receipt = Receipt(
            manifest=record.run,
            spec=spec_digest(spec),
            verdict=verdict,
            software=self.software,
        )
        self.catalogue.publish("receipt", sign(receipt, self.key))


def derivation_of(answer: Answer) -> Derivation:
    """Return what a `Derive` job's answer means for a verdict."""
    match answer:
        case DerivedJob(spec=RouterSpec() as spec, authenticated=authenticated):
            return Derived(spec=spec, authenticated=authenticated)
        case DerivedJob(failed="tokenizer", reason=reason):
            return SourceFailure(stage="tokenizer", reason=reason)
        case DerivedJob(failed="local", reason=reason) | Failed(kind="local", reason=reason):
            return LocalFailure(reason=reason)
        case DerivedJob(reason=reason) | Failed(reason=reason):
            return SourceFailure(stage="source", reason=reason)
        case _:
            return LocalFailure(reason=f"a derivation is answered by {type(answer).__name__}")
