"""Jobs that the daemon sends to a worker process, and the answers to them.

They are typed values over the worker's pipes, one job at a time. Large inputs and outputs are blobs
in the store that daemon and worker share, and a job names them by digest. The daemon sends a job
only when its input blobs are in the store.
"""

from typing import Annotated, Literal

from msgspec import Meta

from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Derivation
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigests, ModuleName
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.text import Text
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
    """The score sheets of the ledger, in its order. Blobs that no peer has may be missing."""


class DerivedAnswer(Wire, frozen=True, kw_only=True):
    """The spec derived here, or the reason why there is none."""

    derivation: Derivation


class Materialise(Wire, frozen=True, kw_only=True):
    """Route one window of the source and leave its shards in the cache."""

    manifest: Manifest
    spec: RouterSpec
    window: Size


class Materialised(Wire, frozen=True, kw_only=True):
    """The size of the window that was routed."""

    documents: Size
    tokens: Size


class PerformLease(Wire, frozen=True, kw_only=True):
    """Do the work of a lease; the answer is the lease's `Result`.

    Shards are taken from the cache, or computed.
    """

    manifest: Manifest
    spec: RouterSpec
    lease: Lease


class Rescore(Wire, frozen=True, kw_only=True):
    """Score some rows of a sheet again; the answer is a `ScoreResult` of these rows alone."""

    manifest: Manifest
    spec: RouterSpec
    lease: ScoreLease
    """The lease of the sheet's work; no peer holds it now."""
    rows: tuple[Size, ...]
    """The router documents of the window to score, from 0."""


class InspectResult(Wire, frozen=True, kw_only=True):
    """Check the result of a lease."""

    manifest: Manifest
    spec: RouterSpec
    lease: Lease
    result: Result
    """Its blobs are in the store and have the right lengths."""


class InspectMoments(Wire, frozen=True, kw_only=True):
    """Check moments that follow a result; NumPy alone, no torch."""

    manifest: Manifest
    lease: TrainLease
    moments: ModuleDigests
    """The blobs are in the store and have the right lengths."""


class Inspected(Wire, frozen=True, kw_only=True):
    """The outcome of a check."""

    wrong: Annotated[str, Meta(max_length=MAX_WRONG)]
    """The fault in words; empty: none."""


class OuterStep(Wire, frozen=True, kw_only=True):
    """Take the outer step of one module; NumPy alone, no torch."""

    manifest: Manifest
    module: ModuleName
    state: DigestField
    momentum: DigestField | None
    """None at version 0: zeros."""
    residual: DigestField | None = None
    """The part of the exact update that the last packed update left out; None: zeros."""
    contributions: tuple[Contribution, ...]


class Stepped(Wire, frozen=True, kw_only=True):
    """The blobs that the outer step wrote to the store."""

    state: DigestField
    momentum: DigestField
    quantised: Quantised | None = None
    """Present if the manifest packs updates."""


class Advance(Wire, frozen=True, kw_only=True):
    """Compute a later version of a module's state from packed updates; NumPy alone, no torch."""

    manifest: Manifest
    module: ModuleName
    state: DigestField
    updates: Annotated[tuple[DigestField, ...], Meta(min_length=1)]
    """In the order of their versions."""


class Advanced(Wire, frozen=True, kw_only=True):
    """The later version, written to the store."""

    state: DigestField


class Describe(Wire, frozen=True, kw_only=True):
    """Describe the device that this worker trains on; fails if the chosen device is missing."""


class Described(Wire, frozen=True, kw_only=True):
    """A device in words and figures, for a person."""

    device: Annotated[str, Meta(max_length=16)]
    """As in the configuration: `cuda:0`, `mps`, `cpu`."""
    name: Annotated[str, Meta(max_length=256)]
    driver: Annotated[str, Meta(max_length=64)]
    """`CUDA 12.8`, `ROCm 6.4`, `Metal`; empty for the CPU."""
    memory: Size
    """All bytes of the device; for the CPU those of the machine, or of the container."""
    usable: Size
    """Bytes that this worker may hold: at most a share of all, and at most the free ones together
    with those that it holds already."""

    def __str__(self) -> str:
        driver = f", {self.driver}" if self.driver else ""
        return f"{self.device}: {self.name}{driver}, {self.memory / 1e9:.1f} GB"


class ProbeMemory(Wire, frozen=True, kw_only=True):
    """Take a few real steps of one path at one micro-batch, on artificial tokens."""

    manifest: Manifest
    micro_batch: Annotated[int, Meta(ge=1, le=65536)]
    """Sequences."""
    checkpointing: bool
    usable: Size
    """Bytes that may be allocated. On the CPU of a Linux machine a larger allocation fails, so that
    the kernel kills no process."""


class MemoryProbed(Wire, frozen=True, kw_only=True):
    """The memory and the time of the steps."""

    fits: bool
    """False: the device had too little memory; the other fields are then 0."""
    peak: Size = 0
    """Bytes: of the device's allocator on a GPU, of the whole worker process on the CPU."""
    micro_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """Forward and backward of one micro-batch."""
    step_seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """The optimizer's part of one step."""


class Progress(Wire, frozen=True, kw_only=True):
    """Sent when a job got on, at most a few times a second: a job that hangs sends none."""

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
    note: Text = ""
    """The cause of a wait."""


class Failed(Wire, frozen=True, kw_only=True):
    """The job could not be done."""

    kind: FailureKind
    """`refused`: the run is not what it claims; `disk`: full; `unavailable`: try again; `device`:
    missing or too small; `local`: a fault of this node."""
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
