"""A worker that does jobs in virtual time: real blobs, made-up numbers, the same for all nodes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from dipaco.node.data.documents import Document
from dipaco.node.data.relabelling import LabelledMeans, LedgerSheets
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.jobs import (
    Advance,
    Advanced,
    Answer,
    Derive,
    DerivedAnswer,
    Describe,
    Described,
    Evaluate,
    Evaluated,
    Failed,
    Fit,
    Fitted,
    Inspect,
    Inspected,
    InspectSheet,
    Job,
    Materialise,
    Materialised,
    OuterStep,
    Progress,
    Score,
    Scored,
    Stepped,
    Train,
    Trained,
)
from dipaco.protocol.canonical import encode
from dipaco.protocol.delta import encoded_bytes
from dipaco.protocol.digest import Digest
from dipaco.protocol.lease import Evaluation, ModuleDigest, Sheet
from dipaco.protocol.ledger import Quantised
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.moments import moments_bytes
from dipaco.protocol.routing.fit import RouterFit
from dipaco.protocol.routing.labels import sheet_bytes
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.relabel import Relabelled
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.spec import RouterSpec
from dipaco.protocol.topology import ModuleId, topology
from dipaco.protocol.verdict import Derived

TRAIN_SECONDS = 60.0
DERIVE_SECONDS = 4.0
SCORE_SECONDS = 5.0
STEPS = 6


def tokens_of(document: int, shift: int = 0) -> list[int]:
    topic = document % 5 * 100 + shift
    return [topic + (document * 7 + i * i) % 60 for i in range(48)]


def derived(
    manifest: Manifest, *, shift: int = 0, relabelled: Relabelled | None = None
) -> RouterSpec:
    """Fit the router on made-up documents: topical, and other ones for another `shift`."""
    recipe = recipe_of(manifest, epoch=0 if relabelled is None else 1)
    fit = RouterFit(recipe, relabelled=relabelled)
    for document in range(manifest.source.documents):
        if fit.done:
            break
        tokens = tokens_of(document, shift)
        fit.feed(document, f"document {document} of {shift}".encode(), tokens, len(tokens))
    return fit.finish()


def rederived(blobs: BlobStore, job: Derive, previous: RouterSpec, *, shift: int = 0) -> RouterSpec:
    """Fit the next router on the same, by the very sheets that the job names."""
    manifest, reshard = job.manifest, job.manifest.routing.reshard
    assert reshard is not None
    live = [path for path, tokens in enumerate(previous.tokens) if tokens]
    sheets = LedgerSheets(blobs, reshard, job.sheets)
    windows = [sheets.window(live, window) for window in range(reshard.windows)]
    means = LabelledMeans(manifest, windows, previous)
    stop = min(reshard.windows * manifest.source.window, manifest.source.documents)
    means.take([router_document(manifest, document, shift) for document in range(stop)])
    return derived(manifest, shift=shift, relabelled=means.finish(blobs, stop))


def router_document(manifest: Manifest, document: int, shift: int = 0) -> Document:
    tokens = tokens_of(document, shift)
    split = recipe_of(manifest).split(document)
    return Document(document, split, b"", head=tokens, tokens=tokens, eligible=True)


def scored(manifest: Manifest, path: int, window: int) -> list[int]:
    """Return honest scores: a topic is best with the path of its number, the fifth with none."""
    size = manifest.source.window
    documents = [
        d
        for d in range(window * size, min((window + 1) * size, manifest.source.documents))
        if recipe_of(manifest).split(d) is Split.ROUTER
    ]
    return [3000 + (0 if d % 5 in (path, 4) else 200) for d in documents]


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
    bias: dict[int, int] = field(default_factory=dict)
    """Added to its scores of a path: within the tolerance a machine's own, beyond it a lie."""
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
                if job.previous is not None:
                    spec = rederived(self.blobs, job, job.previous, shift=self.shift)
                else:
                    spec = derived(job.manifest, shift=self.shift)
                own = Derived(spec=spec, authenticated=self.authenticated)
                return DerivedAnswer(derivation=own)
            case Materialise():
                return Materialised(documents=1, tokens=1)
            case Train():
                return await self._train(job, on_progress)
            case Evaluate():
                await trio.sleep(1.0)
                nll = 100.0 / (1 + job.lease.round) + job.lease.path
                return Evaluated(evaluation=Evaluation(documents=2, tokens=50, nll=nll))
            case Score():
                return await self._score(job, on_progress)
            case Inspect() | InspectSheet():
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

    async def _score(self, job: Score, on_progress: Callable[[Progress], None]) -> Scored:
        await trio.sleep(SCORE_SECONDS)
        scores = scored(job.manifest, job.lease.path, job.lease.window)
        on_progress(Progress(stage="score", done=len(scores), total=len(scores)))
        bias = self.bias.get(job.lease.path, 0)
        rows = range(len(scores)) if job.rows is None else job.rows
        sheet = sheet_bytes([scores[row] + bias for row in rows])
        return Scored(sheet=Sheet(digest=self.blobs.write(sheet), documents=len(rows)))

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
