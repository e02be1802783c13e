"""A worker that does jobs in virtual time: real blobs, made-up numbers, the same for all nodes."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import trio

from dipaco.node.jobs.values import (
    Advance,
    Advanced,
    Answer,
    Derive,
    DerivedAnswer,
    Describe,
    Described,
    Failed,
    Inspected,
    InspectMoments,
    InspectResult,
    Job,
    Materialise,
    Materialised,
    MemoryProbed,
    OuterStep,
    PerformLease,
    ProbeMemory,
    Progress,
    Rescore,
    Stepped,
)
from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.routing.documents import Document
from dipaco.node.routing.reshard import LabelledMeans, LedgerSheets
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.routing.fit import RouterFit
from dipaco.protocol.routing.labels import sheet_bytes
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.reshard import Resharded
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Derived
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.tensors.moments import moments_bytes
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import (
    EvaluateLease,
    EvaluateResult,
    Evaluation,
    ScoreLease,
    ScoreResult,
    SeedLease,
    SeedResult,
    Sheet,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.ledger import Quantised

TRAIN_SECONDS = 60.0
DERIVE_SECONDS = 4.0
SCORE_SECONDS = 5.0
STEPS = 6


def trains(job: Job) -> bool:
    """Return whether a job takes inner steps."""
    return isinstance(job, PerformLease) and isinstance(job.lease, SeedLease | TrainLease)


def train_leases(jobs: Iterable[Job]) -> list[TrainLease]:
    """Return the leases of paths among jobs that were done."""
    return [
        job.lease
        for job in jobs
        if isinstance(job, PerformLease) and isinstance(job.lease, TrainLease)
    ]


def tokens_of(document: int, shift: int = 0) -> list[int]:
    topic = document % 5 * 100 + shift
    return [topic + (document * 7 + i * i) % 60 for i in range(48)]


def derived(
    manifest: Manifest, *, shift: int = 0, resharded: Resharded | None = None
) -> RouterSpec:
    """Fit the router to made-up documents: topical, and other ones for another `shift`."""
    recipe = recipe_of(manifest, epoch=0 if resharded is None else 1)
    if recipe.kind == "round_robin":
        return unfitted_spec(recipe)
    fit = RouterFit(recipe, resharded=resharded)
    for document in range(manifest.source.documents):
        if fit.done:
            break
        tokens = tokens_of(document, shift)
        fit.feed(document, f"document {document} of {shift}".encode(), tokens, len(tokens))
    return fit.finish()


def resharded_spec(
    blobs: BlobStore, job: Derive, previous: RouterSpec, *, shift: int = 0
) -> RouterSpec:
    """Fit the next router to the same documents, by the very sheets that the job names."""
    manifest, reshard = job.manifest, job.manifest.routing.reshard
    assert reshard is not None
    live = [path for path, tokens in enumerate(previous.tokens) if tokens]
    sheets = LedgerSheets(blobs, reshard, job.sheets)
    windows = [sheets.window(live, window) for window in range(reshard.windows)]
    means = LabelledMeans(manifest, windows, previous)
    stop = min(reshard.windows * manifest.source.window, manifest.source.documents)
    means.take([router_document(manifest, document, shift) for document in range(stop)])
    return derived(manifest, shift=shift, resharded=means.finish(blobs, stop))


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
    window_seconds: float = 0.0
    """To make the shards of a window that is not in the cache."""
    reports: bool = True
    """Whether it tells of its progress with a window."""
    begun_windows: list[int] = field(default_factory=list)
    """Every window that it began to make."""
    made_windows: set[int] = field(default_factory=set)
    """The windows in its cache."""
    device: str = ""
    """Why it has no device; empty: it has one."""
    looked: list[float] = field(default_factory=list)
    """The times at which it was asked for its device."""
    done: list[Job] = field(default_factory=list)
    process: bool = False
    """Whether a worker process would exist: from the first job until `close` or a cancelled job."""
    pids: tuple[int, ...] = ()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        self.process, ended = True, False
        try:
            answer = await self._answer(job, on_progress)
            ended = True
        finally:
            self.process = ended
        self.done.append(job)
        return answer

    async def close(self) -> None:
        self.process = False
        await trio.lowlevel.checkpoint()

    async def _answer(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        match job:
            case Derive():
                on_progress(Progress(stage="read", done=1, total=2))
                await trio.sleep(DERIVE_SECONDS)
                if job.previous is not None:
                    spec = resharded_spec(self.blobs, job, job.previous, shift=self.shift)
                else:
                    spec = derived(job.manifest, shift=self.shift)
                own = Derived(spec=spec, authenticated=self.authenticated)
                return DerivedAnswer(derivation=own)
            case Materialise(window=window):
                await self._make(job.manifest, window, on_progress)
                return Materialised(documents=1, tokens=1)
            case PerformLease(lease=SeedLease() | TrainLease() as lease):
                return await self._train(job.manifest, lease, on_progress)
            case PerformLease(lease=EvaluateLease() as lease):
                on_progress(Progress(stage="evaluate", done=0, total=2, unit="documents"))
                await trio.sleep(1.0)
                nll = 100.0 / (1 + lease.version) + lease.path
                found = Evaluation(documents=4, tokens=50, nll=nll)
                return EvaluateResult(token=lease.token, evaluation=found)
            case PerformLease(lease=ScoreLease() as lease):
                return await self._score(job.manifest, lease, None, on_progress)
            case Rescore():
                return await self._score(job.manifest, job.lease, job.rows, on_progress)
            case InspectResult() | InspectMoments():
                return Inspected(wrong=self.wrong)
            case OuterStep():
                return self._step(job)
            case Advance():
                return self._advance(job)
            case Describe():
                self.looked.append(trio.current_time())
                if self.device:
                    return Failed(kind="device", reason=self.device)
                return Described(
                    device="cpu", name="fake", driver="", memory=8 << 30, usable=7 << 30
                )
            case ProbeMemory():
                return MemoryProbed(fits=True)
            case _:
                raise AssertionError(f"no such job: {job}")

    async def _make(
        self, manifest: Manifest, window: int, on_progress: Callable[[Progress], None]
    ) -> None:
        assert self.blobs.has(manifest.tokenizer.sha256), "nothing was tokenised"
        if window in self.made_windows:
            return
        self.begun_windows.append(window)
        for done in range(100):
            await trio.sleep(self.window_seconds / 100)
            if self.reports:
                on_progress(Progress(stage="route", done=done, total=100))
        self.made_windows.add(window)

    async def _train(
        self,
        manifest: Manifest,
        lease: SeedLease | TrainLease,
        on_progress: Callable[[Progress], None],
    ) -> Answer:
        if self.fail:
            return self.fail.pop(0)
        if self.device:
            return Failed(kind="device", reason=self.device)
        for step in range(STEPS):
            await trio.sleep(TRAIN_SECONDS / STEPS)
            on_progress(
                Progress(
                    stage="train",
                    done=step + 1,
                    total=STEPS,
                    unit="steps",
                    tokens_per_second=64.0,
                    loss=3.0,
                )
            )
        for blob in lease.inputs:
            assert self.blobs.has(blob)
        training = manifest.training
        steps = training.seed_steps if isinstance(lease, SeedLease) else training.inner_steps
        figures: dict[str, Any] = {
            "tokens": steps * training.batch * manifest.model.context,
            "seconds": 60.0,
            "loss_first": 4.0,
            "loss_last": 3.0,
        }
        top, work = manifest.topology, work_of(lease)
        names = top.path_modules[work.path]
        inputs = [
            f"{kind_of(lease).name} {work.path} {work.round}".encode(),
            *(encode(each) for each in (*lease.modules, *lease.carried)),
        ]
        states = tuple(
            ModuleDigest(module=m, digest=self._made(top.state_bytes(m), m.encode(), *inputs))
            for m in names
        )
        if isinstance(lease, SeedLease):
            return SeedResult(token=lease.token, states=states, **figures)
        moments = tuple(
            ModuleDigest(
                module=m,
                digest=self._made(moments_bytes(top.elements(m)), b"moments", m.encode(), *inputs),
            )
            for m in names
            if manifest.training.inner_state == "carry"
        )
        return TrainResult(token=lease.token, deltas=states, moments=moments, **figures)

    async def _score(
        self,
        manifest: Manifest,
        lease: ScoreLease,
        rows: tuple[int, ...] | None,
        on_progress: Callable[[Progress], None],
    ) -> ScoreResult:
        scores = scored(manifest, lease.path, lease.window)
        on_progress(Progress(stage="score", done=0, total=len(scores)))
        await trio.sleep(SCORE_SECONDS)
        on_progress(Progress(stage="score", done=len(scores), total=len(scores)))
        bias = self.bias.get(lease.path, 0)
        asked = range(len(scores)) if rows is None else rows
        sheet = self.blobs.write(sheet_bytes([scores[row] + bias for row in asked]))
        return ScoreResult(token=lease.token, sheet=Sheet(digest=sheet, documents=len(asked)))

    def _step(self, job: OuterStep) -> Stepped:
        length = job.manifest.topology.state_bytes(ModuleId(job.module))
        for contribution in job.contributions:
            assert self.blobs.has(contribution.delta)
        inputs = [c.delta for c in job.contributions]
        momentum = self._made(length, b"momentum", job.momentum or b"", *inputs)
        encoding = job.manifest.training.updates
        if encoding == "f32":
            state = self._made(length, b"state", job.state, *inputs)
            return Stepped(state=state, momentum=momentum)
        packed = encoded_bytes(encoding, job.manifest.topology.elements(ModuleId(job.module)))
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
        length, state = job.manifest.topology.state_bytes(ModuleId(job.module)), job.state
        for update in job.updates:
            assert self.blobs.has(update) and self.blobs.has(state)
            state = self._made(length, b"state", state, update)
        return Advanced(state=state)

    def _made(self, length: int, *inputs: bytes) -> Digest:
        return self.blobs.write(hashlib.shake_256(b"|".join(inputs)).digest(length))
