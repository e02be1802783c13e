"""Jobs: what the daemon asks of a worker process, and what it answers.

Typed values over the worker's pipes, one job at a time. Inputs and outputs that are large are
blobs in the store that daemon and worker share, named by digest; a job holds none. The daemon
sends a job only when its input blobs are in the store.
"""

from typing import Annotated, Literal

from msgspec import Meta

from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Derivation
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigests, ModuleName
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.work.kinds import Lease, Nats, Result, Scored, ScoreLease, Size, TrainLease
from dipaco.protocol.work.ledger import Contribution, Quantised

MAX_WRONG = 512  # characters of an `Inspected`

FailureKind = Literal["refused", "disk", "unavailable", "device", "local"]
Stage = Annotated[str, Meta(max_length=32)]


class Derive(Wire, frozen=True, kw_only=True):
    """Derive the router spec of `manifest` from its source; the next epoch's from scores too."""

    manifest: Manifest
    previous: RouterSpec | None = None
    """The verified spec of the epoch before, if there is one."""
    sheets: tuple[Scored, ...] = ()
    """The ledger's, in its order; the blobs are in the store as far as they can be had."""


class DerivedAnswer(Wire, frozen=True, kw_only=True):
    """Our own spec, or why there is none."""

    derivation: Derivation


class Materialise(Wire, frozen=True, kw_only=True):
    """Route one window of the source and leave its shards in the cache."""

    manifest: Manifest
    spec: RouterSpec
    window: Size


class Materialised(Wire, frozen=True, kw_only=True):
    """What the pass over the window found."""

    documents: Size
    tokens: Size


class PerformLease(Wire, frozen=True, kw_only=True):
    """Do the work of a lease; answered by the result that is handed in for it.

    Shards are taken from the cache, or made.
    """

    manifest: Manifest
    spec: RouterSpec
    lease: Lease


class Rescore(Wire, frozen=True, kw_only=True):
    """Score some rows of a sheet again; answered by a `ScoreResult` of these rows alone."""

    manifest: Manifest
    spec: RouterSpec
    lease: ScoreLease
    """Of the sheet; nobody holds it."""
    rows: tuple[Size, ...]
    """The router documents of the window to score, from 0."""


class InspectResult(Wire, frozen=True, kw_only=True):
    """Check what was handed in for a lease."""

    manifest: Manifest
    spec: RouterSpec
    lease: Lease
    result: Result
    """Its blobs are in the store, of the right lengths."""


class InspectMoments(Wire, frozen=True, kw_only=True):
    """Check moments that follow a result; NumPy alone, no torch."""

    manifest: Manifest
    lease: TrainLease
    moments: ModuleDigests
    """In the store, of the right lengths."""


class Inspected(Wire, frozen=True, kw_only=True):
    """Whether what was handed in can be used."""

    wrong: Annotated[str, Meta(max_length=MAX_WRONG)]
    """Empty: nothing."""


class OuterStep(Wire, frozen=True, kw_only=True):
    """Take the outer step of one module; NumPy alone, no torch."""

    manifest: Manifest
    module: ModuleName
    state: DigestField
    momentum: DigestField | None
    """None at version 0: zeros."""
    residual: DigestField | None = None
    """What the last packed update left out; None: nothing."""
    contributions: tuple[Contribution, ...]


class Stepped(Wire, frozen=True, kw_only=True):
    """What the step made, left in the store."""

    state: DigestField
    momentum: DigestField
    quantised: Quantised | None = None
    """Where the manifest packs updates."""


class Advance(Wire, frozen=True, kw_only=True):
    """Make a later version of a module's state by packed updates; NumPy alone, no torch."""

    manifest: Manifest
    module: ModuleName
    state: DigestField
    updates: Annotated[tuple[DigestField, ...], Meta(min_length=1)]
    """In their order."""


class Advanced(Wire, frozen=True, kw_only=True):
    """The later version, left in the store."""

    state: DigestField


class Describe(Wire, frozen=True, kw_only=True):
    """Say which device this worker trains on; fails where the one asked for is missing."""


class Described(Wire, frozen=True, kw_only=True):
    """A device as a person knows it."""

    device: Annotated[str, Meta(max_length=16)]
    """As in the configuration: `cuda:0`, `mps`, `cpu`."""
    name: Annotated[str, Meta(max_length=256)]
    driver: Annotated[str, Meta(max_length=64)]
    """`CUDA 12.8`, `ROCm 6.4`, `Metal`; empty for the CPU."""
    memory: Size
    """Bytes it has in all; for the CPU those of the machine, or of the container."""
    usable: Size
    """Bytes that this worker may hold: a share of all, and no more than it has and is free."""

    def __str__(self) -> str:
        driver = f", {self.driver}" if self.driver else ""
        return f"{self.device}: {self.name}{driver}, {self.memory / 1e9:.1f} GB"


class ProbeMemory(Wire, frozen=True, kw_only=True):
    """Take a few real steps of one path at one micro-batch, on made-up tokens."""

    manifest: Manifest
    micro_batch: Annotated[int, Meta(ge=1, le=65536)]
    """Sequences."""
    checkpointing: bool
    usable: Size
    """Bytes that may be taken; on the CPU of a Linux machine an allocation beyond them fails, so
    that nobody is killed."""


class MemoryProbed(Wire, frozen=True, kw_only=True):
    """What the steps needed."""

    fits: bool
    """False: the device had too little memory; nothing else is known then."""
    peak: Size = 0
    """Bytes: of the device's allocator on a GPU, of the whole worker process on the CPU."""
    micro_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """Forward and backward of one micro-batch."""
    step_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """The optimizer, once a step."""


class Progress(Wire, frozen=True, kw_only=True):
    """Sent while a job runs, at most a few times a second."""

    stage: Stage
    """`read`, `route`, `train`, `evaluate`, `score`, ..."""
    done: Size
    total: Size
    """0: not known."""
    unit: Annotated[str, Meta(max_length=16)] = ""
    """Of `done` and `total`: `documents`, `steps`, `bytes`."""
    per_second: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """Of `unit`; 0: not known."""
    tokens_per_second: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """Of training; 0 for other work."""
    loss: Nats | None = None


class Failed(Wire, frozen=True, kw_only=True):
    """The job could not be done."""

    kind: FailureKind
    """Refused: the run is not what it claims; disk: full; unavailable: try again; device: missing
    or too small; local: ours."""
    reason: Annotated[str, Meta(max_length=4096)]


Job = (
    Derive
    | Materialise
    | PerformLease
    | Rescore
    | InspectResult
    | InspectMoments
    | OuterStep
    | Advance
    | Describe
    | ProbeMemory
)
Answer = (
    DerivedAnswer
    | Materialised
    | Result
    | Inspected
    | Stepped
    | Advanced
    | Described
    | MemoryProbed
    | Failed
)
