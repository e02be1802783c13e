"""A worker that does jobs in virtual time: real blobs, made-up numbers, the same for all nodes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.jobs import (
    Advance,
    Advanced,
    Answer,
    Derive,
    Derived,
    Describe,
    Described,
    Evaluate,
    Evaluated,
    Failed,
    Fit,
    Fitted,
    Inspect,
    Inspected,
    Job,
    Materialise,
    Materialised,
    OuterStep,
    Progress,
    Stepped,
    Train,
    Trained,
)
from dipaco.protocol.canonical import encode
from dipaco.protocol.delta import encoded_bytes
from dipaco.protocol.digest import Digest
from dipaco.protocol.lease import Evaluation, ModuleDigest
from dipaco.protocol.ledger import Quantised
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.moments import moments_bytes
from dipaco.protocol.routing.fit import RouterFit
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.spec import RouterSpec
from dipaco.protocol.topology import ModuleId, topology

TRAIN_SECONDS = 60.0
DERIVE_SECONDS = 4.0
STEPS = 6


def derived(manifest: Manifest, *, shift: int = 0) -> RouterSpec:
    """Fit the router on made-up documents: topical, and other ones for another `shift`."""
    fit = RouterFit(recipe_of(manifest))
    for document in range(manifest.source.documents):
        if fit.done:
            break
        topic = document % 5 * 100 + shift
        tokens = [topic + (document * 7 + i * i) % 60 for i in range(48)]
        fit.feed(document, f"document {document} of {shift}".encode(), tokens, len(tokens))
    return fit.finish()


@dataclass
class FakeWorker:
    """Does any job; what it leaves in the store is a function of the job's inputs alone."""

    blobs: BlobStore
    shift: int = 0
    """Other than 0: this node's source holds other documents."""
    authenticated: bool = True
    fail: list[Failed] = field(default_factory=list)
    """Answers to give to the next training jobs instead of doing them."""
    wrong: str = ""
    """What an inspection finds."""
    forgetful: bool = False
    """Packed updates that it makes are gone at once."""
    done: list[Job] = field(default_factory=list)
    pid: int | None = None

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        answer = await self._answer(job, on_progress)
        self.done.append(job)
        return answer

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _answer(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        match job:
            case Derive():
                on_progress(Progress(stage="read", done=1, total=2))
                await trio.sleep(DERIVE_SECONDS)
                spec = derived(job.manifest, shift=self.shift)
                return Derived(spec=spec, authenticated=self.authenticated)
            case Materialise():
                return Materialised(documents=1, tokens=1)
            case Train():
                return await self._train(job, on_progress)
            case Evaluate():
                await trio.sleep(1.0)
                nll = 100.0 / (1 + job.lease.round) + job.lease.path
                return Evaluated(evaluation=Evaluation(documents=2, tokens=50, nll=nll))
            case Inspect():
                return Inspected(wrong=self.wrong)
            case OuterStep():
                return self._step(job)
            case Advance():
                return self._advance(job)
            case Describe():
                return Described(
                    device="cpu", name="fake", driver="", memory=8 << 30, usable=7 << 30
                )
            case Fit():
                return Fitted(fits=True)

    async def _train(self, job: Train, on_progress: Callable[[Progress], None]) -> Answer:
        if self.fail:
            return self.fail.pop(0)
        for step in range(STEPS):
            await trio.sleep(TRAIN_SECONDS / STEPS)
            on_progress(
                Progress(
                    stage="train", done=step + 1, total=STEPS, rate=64.0, unit="tokens", loss=3.0
                )
            )
        lease, top = job.lease, topology(job.manifest)
        inputs = [encode(each) for each in (*lease.modules, *lease.moments)]
        for each in (*lease.modules, *lease.moments):
            assert self.blobs.has(each.digest)
        place = f"{lease.kind} {lease.path} {lease.round}".encode()
        blobs = tuple(
            ModuleDigest(
                module=m, digest=self._made(top.state_bytes(m), m.encode(), place, *inputs)
            )
            for m in top.path_modules[lease.path]
        )
        moments = tuple(
            ModuleDigest(
                module=m,
                digest=self._made(
                    moments_bytes(top.elements(m)), b"moments", m.encode(), place, *inputs
                ),
            )
            for m in top.path_modules[lease.path]
            if lease.kind == "train" and job.manifest.training.inner_state == "carry"
        )
        return Trained(
            blobs=blobs,
            moments=moments,
            tokens=384,
            seconds=60.0,
            loss_first=4.0,
            loss_last=3.0,
        )

    def _step(self, job: OuterStep) -> Stepped:
        length = topology(job.manifest).state_bytes(ModuleId(job.module))
        for contribution in job.contributions:
            assert self.blobs.has(contribution.delta)
        inputs = [c.delta for c in job.contributions]
        momentum = self._made(length, b"momentum", job.momentum or b"", *inputs)
        encoding = job.manifest.training.updates
        if encoding == "f32":
            state = self._made(length, b"state", job.state, *inputs)
            return Stepped(state=state, momentum=momentum)
        packed = encoded_bytes(encoding, topology(job.manifest).elements(ModuleId(job.module)))
        update = self._made(packed, b"update", job.residual or b"", *inputs)
        if self.forgetful:
            self.blobs.remove(update)
        return Stepped(
            state=self._made(length, b"state", job.state, update),
            momentum=momentum,
            quantised=Quantised(
                update=update, residual=self._made(length, b"residual", update, *inputs)
            ),
        )

    def _advance(self, job: Advance) -> Advanced:
        length, state = topology(job.manifest).state_bytes(ModuleId(job.module)), job.state
        for update in job.updates:
            assert self.blobs.has(update) and self.blobs.has(state)
            state = self._made(length, b"state", state, update)
        return Advanced(state=state)

    def _made(self, length: int, *inputs: bytes) -> Digest:
        return self.blobs.write(hashlib.shake_256(b"|".join(inputs)).digest(length))
