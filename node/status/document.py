"""The status document of a node, and the table of states and reasons.

Every view (`status`, `status --json`, the progress of `testnet`) shows a `Status` and computes
nothing itself. The daemon alone fills it. Texts and codes are the same in log and status; the code
is for programs. This module is independent of the wire, trio and torch. Schema: docs/api.md.
"""

from string import Formatter
from typing import Any, Final, Literal

import msgspec

from dipaco.node.status.events import Event, State
from dipaco.node.status.run_details import PaceStatus, RouterStatus, ScheduleStatus
from dipaco.protocol.numbers import count, span

SCHEMA: Final = 1

Verdict = Literal["unverified", "verified", "refuted", "unverifiable"]

PathState = Literal["idle", "leased", "submitted", "done"]

REASONS: dict[str, tuple[State, str]] = {
    "starting": ("starting", "reading the home folder"),
    "resuming": ("starting", "goes on after a pause"),
    "no-peer": ("connecting", "{trouble}"),
    "no-run": ("choosing", "{peers:n peer}, none offers a run"),
    "seed-silent": ("choosing", "{peers:n peer}; no seed has said yet which runs it offers"),
    "several-runs": ("choosing", "{offers}: name one with --run"),
    "not-on-offer": ("choosing", "{problem}"),
    "run-away": ("choosing", "{run} is joined when its scheduler {scheduler} answers"),
    "other-signer": ("choosing", "{problem}"),
    "deriving": ("verifying", "router of {run}: {stage}{progress}"),
    "spot-check": ("verifying", "{count:n score} of path {path} once more"),
    "no-spec": ("verifying", "the scheduler has not published the router of {run} yet"),
    "source-away": ("verifying", "source: {problem}, next try in {wait:span}"),
    "own-failure": ("verifying", "no router derived here: {problem}, next try in {wait:span}"),
    "receipts": (
        "verifying",
        "cannot be verified here ({problem}); receipts that say verified: {verified} of {quorum}",
    ),
    "router": ("refused", "{stage} differs from the spec of {signer}, will not train this run"),
    "unverifiable": ("refused", "the router cannot be verified ({problem}), policy is {policy}"),
    "not-scheduled": ("refused", "{problem}"),
    "modules": ("fetching", "modules for path {path}{progress}"),
    "preparing": ("fetching", "text for round 1{progress}"),
    "shard": ("fetching", "text of path {path}{progress}"),
    "begun": ("training", "{work}: begun"),
    "task": ("training", "{work}{progress}"),
    "submitting": ("training", "hands in {work}"),
    "finishing": ("training", "no new lease; paused when the one in hand has ended"),
    "outer-step": ("training", "outer step of {module}, round {round}"),
    "asking": ("waiting", "asks {scheduler} for work"),
    "no-lease": ("waiting", "{why}, asks again within {wait:span}"),
    "parked": ("waiting", "the scheduler gives this node no work for {wait:span}: {why}"),
    "inputs-away": ("waiting", "{problem}, next try in {wait:span}"),
    "scheduler-away": ("waiting", "{problem}, next try in {wait:span}"),
    "not-admitted": ("waiting", "the run takes listed peers only"),
    "run-over": ("waiting", "round {round} of {rounds} done; {next}"),
    "failures": ("paused", "{count} in a row ({problem}), next try in {wait:span}"),
    "device": ("paused", "{problem}, next try in {wait:span}"),
    "scheduling": ("serving", "round {round} of {rounds}, {held} of {paths:n path} held{parked}"),
    "blocked": ("serving", "{problem}"),
    "scores-differ": ("serving", "{problem}"),
    "two-ledgers": ("serving", "{problem}; this node goes on with the ledger that it holds"),
    "no-quorum": ("serving", "{problem}"),
    "standby": ("serving", "stands by: {scheduler} schedules, in term {term}"),
    "keeping": ("serving", "{votes}: {records:n record} of the ledger, term {term}{lacking}"),
    "no-run-kept": ("choosing", "{peers:n peer}; the run to keep is not known yet"),
    "directory": ("serving", "peer directory of {peers:n peer}, no run to schedule"),
    "stopping": ("stopping", "handing back the lease"),
}
"""Reason code: its state and its text. The codes of limits are in node/limits/.

`{peers:n peer}` is a count with its noun, `{wait:span}` a time in seconds (protocol/numbers.py).
"""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """The reason of the node's state."""

    code: str
    """A key of `REASONS`, or the code of a limit."""
    text: str
    since: float
    """Unix time, seconds."""
    until: float | None = None
    """When the node tries again, Unix time, seconds; null: no time is set."""
    cure: str = ""
    """What would end a pause, in words: an event or a command; empty: the text says all."""


class _Sentence(Formatter):
    """Fills in counts and times as people read them."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "span":
            return span(value)
        if format_spec.startswith("n "):
            return count(value, format_spec[2:])
        return str(super().format_field(value, format_spec))


def state_of(code: str) -> State:
    """Return the state that a reason belongs to."""
    return REASONS[code][0]


def reason(code: str, since: float, **values: object) -> Reason:
    """Return the reason `code` with `values` filled into its text; KeyError for a missing one.

    since   Unix time, seconds; a value called `wait` is the time from then to the next try.
    """
    text = _Sentence().format(REASONS[code][1], **values)
    wait = values.get("wait")
    until = since + wait if isinstance(wait, int | float) else None
    return Reason(code=code, text=text, since=since, until=until)


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """The loss on held-out documents, each scored by the path that it is routed to."""

    version: int
    """The newest one that every path with data was evaluated at; 0: the seed model."""
    tokens: int
    perplexity: float | None
    """null: no token was scored."""
    vocabulary: int
    """Token ids of the run's tokenizer: perplexities of two vocabularies do not compare."""
    bits_per_byte: float | None


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The run that this node takes part in."""

    id: str
    """Run id, hex."""
    name: str
    owner: str
    """PeerID."""
    spec: str
    """Digest of the adopted router spec, hex; empty before there is one."""
    verdict: Verdict
    stage: str
    """The stage that differs, for `refuted`; else empty."""
    verified: int
    refuted: int
    """Receipts of other peers for the spec that reached this node; if the manifest lists members,
    only theirs."""
    round: int
    """The current round, from 1; 0: seed."""
    rounds: int
    finished: bool
    held_out: HeldOut | None = None
    """Of the last evaluation; null before one is complete."""


class RunBlock(RunStatus, frozen=True, kw_only=True):
    """A run of this node, with what happens in it."""

    state: State
    reason: Reason
    reasons: tuple[Reason, ...]
    """All that hold, that of the state first."""
    swarm: tuple["PathStatus", ...]
    """Every path."""
    swarm_time: float | None
    """When the holders were told, Unix time, seconds; null: not yet. This node's own work is always
    of the time of the document."""
    records: int = 0
    """The number of records of the ledger that are here."""
    router: RouterStatus | None = None
    """The newest router; null: it is not here yet."""
    pace: PaceStatus | None = None
    """Null before the seed model."""
    schedule: ScheduleStatus | None = None
    """Null, unless this node schedules the run."""
    place: int | None = None
    """This node's place in the scheduler's queue, from 1; null: it does not wait there."""
    places: int | None = None
    """The places of that queue that are taken."""
    lease_until: float | None = None
    """When the lease in work ends if no heartbeat gets through any more, Unix time, seconds; null:
    there is none, or no heartbeat was answered yet."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a peer offers."""

    id: str
    name: str
    owner: str
    verified: int
    refuted: int
    """Receipts of other peers for its router, as in `RunStatus`."""
    scheduler: str
    """PeerID."""
    answers: bool
    """Whether the scheduler is connected and offers the run, or is this node."""
    over: bool
    """Whether its last round is done, as far as this node's ledger tells."""


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The current work."""

    kind: str
    """A kind of work (`seed`, `train`, `evaluate`, `score`), or `derive`."""
    path: int
    round: int
    stage: str
    """The stage that the worker process reports: `read`, `route`, `train`, ..."""
    done: int
    total: int
    """0: not known."""
    unit: str = ""
    """Of `done` and `total`: `steps`, `documents`, `bytes`."""
    tokens_per_second: float
    loss: float | None
    """Nats per token."""


class BlobKind(msgspec.Struct, frozen=True, kw_only=True):
    """The blobs of one kind that this node received since its start."""

    kind: str
    """`state`, `update`, `moments`, `result`, `tokenizer`, or `other`."""
    received: int
    """Bytes."""


class BlobPeer(msgspec.Struct, frozen=True, kw_only=True):
    """The blobs that this node and one peer sent each other since its start."""

    id: str
    """PeerID."""
    sent: int
    received: int
    """Bytes."""


class BlobBytes(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of blobs that the node sent and received since its start."""

    sent: int
    received: int
    kinds: tuple[BlobKind, ...]
    """What was received, by kind: the receiver knows it, the sender sends a digest's bytes."""
    peers: tuple[BlobPeer, ...]
    """The peers with most bytes, at most 64."""


class NetworkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The node's addresses, connections and traffic."""

    listen: tuple[str, ...]
    """Addresses that other peers dial, with /p2p/PEERID."""
    peers: int
    """The number of connected peers."""
    sent: int
    received: int
    """Bytes of blobs and messages since the start."""
    blobs: BlobBytes = BlobBytes(sent=0, received=0, kinds=(), peers=())
    """The part of it that is blobs."""
    up: float = 0.0
    """Bytes per second that it sends, the mean of the last ten seconds."""
    down: float = 0.0
    """The same of what it receives."""
    max_up: int = 0
    """The cap on what it sends, bytes per second; 0: none."""
    max_down: int = 0
    """The same of what it receives."""
    today: int = 0
    """Bytes of today, both ways, as the caps count them."""
    daily_quota: int = 0
    """The most bytes of a day; 0: no bound."""


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A connected peer."""

    id: str
    address: str
    rtt_ms: float | None
    since: float | None = None
    """When it connected, Unix time, seconds; null: not known."""
    sent: int = 0
    received: int = 0
    """Bytes since the daemon's start."""


class CacheStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The shard cache."""

    bytes: int
    """At the last measurement; 0 before the first."""
    measured: float | None
    """Unix time of that measurement, seconds; None: not yet."""
    max: int
    shards: int


class PathStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One path of the grid."""

    path: int
    experts: tuple[int, ...]
    """The expert that the path takes at each level."""
    round: int
    """The current round; the last one when the run is over."""
    holder: str
    """PeerID of the lease's holder; empty: not leased."""
    state: PathState
    loss: float | None
    """The latest known training loss, nats per token."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The node's work since the first start of its home."""

    accepted: int
    """Tasks whose result was accepted."""
    refused: int
    """Tasks whose result was refused."""
    tokens: int
    """Tokens trained on, of accepted tasks."""
    seconds: float
    """Time of their inner steps, seconds."""
    sent: int = 0
    """Bytes."""
    received: int = 0
    """Bytes."""
    improvement: float = 0.0
    """Nats per token by which the held-out loss of its paths fell in its accepted rounds, summed,
    where the ledger told of both losses while the node ran; others' work on shared modules is in
    it."""
    estimated_wh: float = 0.0
    """Watt-hours of its inner steps: no measurement, but the time at 8 W a thread of the CPU, or at
    200 W of a GPU."""


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The device that trains."""

    text: str
    """Its name, driver and memory, in words."""
    celsius: float | None
    """Its temperature while it works; null: it is not read now, or cannot be."""
    max_celsius: int
    """The temperature above which no work runs."""


class OrderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The order that the node follows: that of the person who runs it."""

    mode: str
    """`runs`, `finishing`, or a pause: `user`, `start-paused`, `finished`."""
    since: float
    """Unix time, seconds."""
    until: float | None
    """Unix time at which a pause ends by itself; null: with `resume` alone."""


class StageTime(msgspec.Struct, frozen=True, kw_only=True):
    """Time spent in one kind of work since the start: `derive`, `fetch`, `train`, ..."""

    stage: str
    seconds: float
    count: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident set sizes, bytes."""

    daemon: int
    peak: int
    """The daemon's largest since its start."""
    worker: int
    """0: there is no worker process."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: Literal[1] = SCHEMA
    version: str
    peer: str
    name: str = ""
    """The name that its person gave it; empty: none. No peer is told of it."""
    pid: int
    home: str
    rendezvous: bool
    time: float
    """Unix time, seconds."""
    uptime_s: float
    state: State
    """Of the busiest run, if there are several."""
    reason: Reason
    reasons: tuple[Reason, ...] = ()
    """All that hold, that of the state first."""
    run: RunStatus | None
    """The busiest run of this node; null before one is chosen."""
    runs: tuple[RunBlock, ...] = ()
    """Every run of this node, the busiest first."""
    offers: tuple[Offer, ...]
    task: TaskStatus | None
    network: NetworkStatus
    peers: tuple[PeerStatus, ...]
    cache: CacheStatus
    swarm: tuple[PathStatus, ...]
    """Every path of `run`; empty before a run is chosen."""
    totals: Totals
    events: tuple[Event, ...] = ()
    """The last ten, ascending."""
    stages: tuple[StageTime, ...]
    memory: Memory
    trains: bool = True
    """Whether this node trains; one that does not cannot pause."""
    device: DeviceStatus | None = None
    """Null: this node trains nothing."""
    order: OrderStatus = OrderStatus(mode="runs", since=0.0, until=None)
    """Of the person who runs the node."""
