"""Verification of a run's routers in one home, without a network.

It derives the routers again, or repeats some scores. The caller supplies the functions that do jobs
and fetch blobs: a command does its jobs in its own process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dipaco.node.jobs.values import Answer, Derive, Failed, Job
from dipaco.node.routing.sheets import read_scores
from dipaco.node.runs.files import RunFile
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.verification.spot_check import compare, draw_rows, rescoring
from dipaco.node.verification.verifier import derivation_of
from dipaco.protocol.errors import RemoteProtocolError, Unavailable
from dipaco.protocol.numbers import count as number
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import (
    Derivation,
    Outcome,
    SourceFailure,
    Verdict,
    contradicted,
    judge,
    labels_hold,
    labels_untold,
    static_check,
)
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import Scored, ScoreResult


@dataclass(frozen=True)
class Judged:
    """One claimed spec, our own, and the verdict on the claimed one."""

    claimed: RouterSpec | None = None
    derivation: Derivation | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class OfflineVerification:
    """One run, this home's record of it, and the functions that do jobs and fetch blobs."""

    run: RunFile
    record: RunRecord | None
    """None: this home has no record of the run."""
    blobs: BlobStore
    perform: Callable[[Job], Answer]
    fetch: Callable[[Mapping[Digest, str]], None]
    """Fetches blobs, digest: name, into `blobs`; raises Unavailable."""

    def adopted(self) -> list[RouterSpec]:
        """Return the specs that the run's ledger adopted, epoch by epoch, as far as known."""
        record = self.record
        epochs = range(len(record.state.specs)) if record else ()
        held = [record.adopted(epoch) for epoch in epochs] if record else []
        return [each.spec for each in held if each is not None]

    def up_to(self, claimed: RouterSpec) -> list[RouterSpec]:
        """Return the adopted specs that `claimed` builds on, then `claimed` itself."""
        return [*self.adopted()[: claimed.epoch], claimed]

    def judge_all(self, claims: list[RouterSpec], *, derive: bool) -> Judged:
        """Judge the specs in order, up to the first that is not VERIFIED; without any, derive ours.

        derive   derive our own spec even where the manifest alone decides the verdict.
        """
        judged = Judged()
        for claimed in claims:
            judged = self._judge(claimed, derive=derive)
            if judged.verdict is None or judged.verdict.outcome is not Outcome.VERIFIED:
                return judged
        return judged if claims else Judged(derivation=self._derive(epoch=0))

    def _judge(self, claimed: RouterSpec, *, derive: bool) -> Judged:
        # The recipe of the run's last epoch refutes a spec of a later one.
        epoch = min(claimed.epoch, self.run.manifest.epoch_of(self.run.manifest.training.rounds))
        recipe = recipe_of(self.run.manifest, epoch=epoch)
        verdict = static_check(recipe, claimed)
        if verdict is not None and not derive:
            return Judged(claimed, None, verdict)
        derivation = self._derive(epoch)
        return Judged(claimed, derivation, verdict or judge(recipe, claimed, derivation))

    def _derive(self, epoch: int) -> Derivation:
        """Derive an epoch's spec; after epoch 0 the ledger's score sheets are inputs too."""
        if epoch == 0:
            return derivation_of(self.perform(Derive(manifest=self.run.manifest)))
        previous = self.record.adopted(epoch - 1) if self.record else None
        try:
            if previous is None:
                raise Unavailable("this node knows no ledger of the run with score sheets")
            sheets = self._sheets()
        except Unavailable as away:
            return SourceFailure(stage="labels", reason=str(away))
        job = Derive(manifest=self.run.manifest, previous=previous.spec, sheets=sheets)
        return derivation_of(self.perform(job))

    def rescore(self, count: int) -> Judged:
        """Repeat `count` scores of one sheet, drawn at random, and compare them."""
        record = self.record
        newest = record.newest() if record else None
        try:
            first = record.adopted(0) if record else None
            if record is None or first is None:
                raise Unavailable("this node knows no ledger of the run with a router")
            self._sheets()
            sampled = draw_rows(record, self.blobs, count=count)
            job = rescoring(record, first.spec, sampled)
            self._fetch({each.digest: str(each.module) for each in job.lease.modules})
            answer = self.perform(job)
            if not isinstance(answer, ScoreResult):
                assert isinstance(answer, Failed)
                raise Unavailable(answer.reason)
            found = compare(record, sampled, read_scores(self.blobs, answer.sheet))
        except RemoteProtocolError as error:
            verdict = contradicted(str(error))
        except Unavailable as away:
            verdict = labels_untold(str(away))
        else:
            entry = sampled.entry
            reason = (
                f"{number(len(sampled.rows), 'score')} of path {entry.path} in window "
                f"{entry.window} "
                f"repeated, none differs by more than the tolerance"
            )
            verdict = contradicted(found) if found else labels_hold(reason)
        return Judged(newest.spec if newest else None, None, verdict)

    def _sheets(self) -> tuple[Scored, ...]:
        """Return the ledger's score sheets, all of them in the store; raises Unavailable."""
        entries = self.record.state.sheets() if self.record else ()
        self._fetch({each.sheet.digest: f"scores of path {each.path}" for each in entries})
        return entries

    def _fetch(self, wanted: Mapping[Digest, str]) -> None:
        self.fetch({digest: name for digest, name in wanted.items() if not self.blobs.has(digest)})
