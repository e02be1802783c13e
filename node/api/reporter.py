"""The daemon's answers to the local API: the status document and the ledger's summary.

It reads the state of the daemon's other parts from memory, of the disk some rows of the journal for
a page of the ledger, and changes nothing.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import trio
from msgspec.structs import replace

from dipaco.node.api.evaluations import held_out
from dipaco.node.api.ledger_pages import NO_LEDGER, ledger_view, loss_view, record_page
from dipaco.node.api.run_details import pace_of, rounds_done, router_of, schedule_of
from dipaco.node.api.values import (
    ConfigView,
    LedgerView,
    LossView,
    Ordered,
    RecordPage,
    SettingView,
    Why,
)
from dipaco.node.config import KEYS, NodeConfig
from dipaco.node.jobs.runner import JobRunner
from dipaco.node.kinds.table import EVALUATE
from dipaco.node.limits.device import Device
from dipaco.node.limits.order import Orders, gpu_number
from dipaco.node.limits.values import Order
from dipaco.node.network.blob_stream import InThread
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.liveness import Liveness
from dipaco.node.network.transport import Transport
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.holders import holders
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.seen import OutsideView
from dipaco.node.settings import Settings
from dipaco.node.status.activity import Activity, RunActivity
from dipaco.node.status.counters import StorageMeter, memory
from dipaco.node.status.document import (
    BlobBytes,
    BlobKind,
    BlobPeer,
    CacheStatus,
    DeviceStatus,
    NetworkStatus,
    Offer,
    OrderStatus,
    PathState,
    PathStatus,
    PeerStatus,
    Reason,
    RunBlock,
    RunStatus,
    Status,
)
from dipaco.node.status.event_log import EventLog, latest_tasks, page_of
from dipaco.node.status.events import EventPage, TaskPage
from dipaco.node.status.log_lines import LogLines
from dipaco.node.status.rates import Rates
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import SavedRecord
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.routing.labels import SCORE_BYTES
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import Held

DERIVE: Final = "derive"
"""The kind of a task that is no lease."""
RESTART: Final = 75
"""The exit code that has a service started again (sysexits: EX_TEMPFAIL)."""
LAST_EVENTS = 10  # in a status
BLOB_PEERS = 64  # whose bytes of blobs are told: a node holds tens of connections


async def _nobody() -> OutsideView:
    return OutsideView(port=0, answers=())


@dataclass
class StatusReporter:
    """Answers the local API (`server.Handler`)."""

    version: str
    me: PeerId
    home: Home
    config: NodeConfig
    activity: Activity
    run_store: RunStore
    transport: Transport
    liveness: Liveness
    worker: JobRunner
    exchange: Exchange
    storage: StorageMeter
    schedulers: dict[Digest, Scheduler]
    leave: Callable[[], None]
    orders: Orders
    device: Device = field(default_factory=Device)
    """It trains."""
    look_back: Callable[[], Awaitable[OutsideView]] = _nobody
    """Asks peers how this node looks from there."""
    in_thread: InThread = trio.to_thread.run_sync
    """Reads the history and the events."""
    restart: Callable[[], None] = lambda: None
    """Have the process end with `RESTART`."""
    saved_records: Callable[[Digest, int, int], list[SavedRecord]] = lambda run, first, most: []
    """Returns saved records of a run's ledger from a number on, at most so many."""
    celsius: Callable[[], float | None] = lambda: None
    """Returns its temperature; None: it is not read now."""
    today: Callable[[], int] = lambda: 0
    """Returns the bytes of today that count."""
    live: Callable[[], Settings] | None = None
    """Returns the settings as they are now; None: they stay as `config`."""
    runs: list[RunRecord] = field(default_factory=list)
    """The runs that this node takes part in."""
    started: float = 0.0
    """Unix time, seconds."""
    log_lines: LogLines = field(default_factory=LogLines)
    _since: dict[PeerId, float] = field(default_factory=dict)
    """Since when each peer is connected, Unix time, seconds."""
    _rates: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        self.transport.watch(self._on_peer)

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if connected:
            self._since[peer] = time.time()
        else:
            self._since.pop(peer, None)

    @property
    def event_log(self) -> EventLog:
        """The node's events."""
        return self.activity.event_log

    @property
    def run(self) -> RunRecord | None:
        """The busiest of the runs; None before there is one."""
        return next(iter(self._by_busyness()), None)

    def stop(self, *, now: bool, restart: bool) -> None:
        """Begin to stop; `now`: end the process at once."""
        if now:
            os._exit(RESTART if restart else 0)
        if restart:
            self.restart()
        self.leave()

    def settings(self) -> ConfigView:
        """Return the settings that the daemon runs with."""
        now = self.live() if self.live else Settings(config=self.config, origins={})
        return ConfigView(
            settings=tuple(
                SettingView(key=key, value=now.shown(key), origin=now.origin(key)) for key in KEYS
            )
        )

    def pause(self, until: float | None) -> Ordered:
        """Stop working; raises ConfigError for a time in the past, and if it does not train."""
        self._check_trains()
        if until is not None and until <= time.time():
            raise ConfigError("the end of the pause is in the past")
        return _ordered(self.orders.pause(until))

    def resume(self) -> Ordered:
        """Work again."""
        return _ordered(self.orders.resume())

    def switch_gpu(self, number: int, *, on: bool) -> Ordered:
        """Use the GPU cuda:`number`, or leave it alone; raises ConfigError for another one."""
        self._check_trains()
        if gpu_number(self.device.name) != number:
            raise ConfigError(f"this node trains on {self.device.name}, not on cuda:{number}")
        return _ordered(self.orders.switch_gpu(number, on=on))

    def finish(self) -> Ordered:
        """Pause when the lease that is held has ended; raises ConfigError as `pause`."""
        self._check_trains()
        return _ordered(self.orders.finish())

    def _check_trains(self) -> None:
        if not self.config.node.trains:
            raise ConfigError(
                "this node trains nothing that could pause; to end it: dipaco-node stop"
            )

    async def outside(self) -> OutsideView:
        """Ask some peers how this node looks from there."""
        return await self.look_back()

    async def why(self, at: float | None) -> Why:
        """Return the reasons that held at a Unix time; None: now."""
        if at is None:
            activity, now = self.activity, time.time()
            since = max(each.since for each in activity.reasons)
            return Why(
                at=now, state=activity.state, reasons=activity.reasons, since=since, until=None
            )
        found = await self.in_thread(partial(self.activity.history.at, at))
        if found is None:
            return Why(at=at, state="unknown", reasons=(), since=None, until=None)
        held, until = found
        return Why(at=at, state=held.state, reasons=held.reasons, since=held.time, until=until)

    def status(self) -> Status:
        """Return the whole document."""
        now = time.time()
        runs = tuple(map(self._run, self._by_busyness()))
        return Status(
            version=self.version,
            peer=self.me,
            name=self.config.node.name,
            pid=os.getpid(),
            home=_printable(self.home.root),
            rendezvous=self.config.node.rendezvous,
            time=now,
            uptime_s=now - self.started,
            state=self.activity.state,
            reason=self._named(self.activity.reasons[0]),
            reasons=tuple(map(self._named, self.activity.reasons)),
            run=_summary(runs[0]) if runs else None,
            runs=runs,
            offers=tuple(map(self._offer, self.run_store.runs.values())),
            task=self.activity.task,
            network=self._network(),
            peers=tuple(map(self._peer, sorted(self.transport.peers()))),
            cache=self._cache(),
            swarm=runs[0].swarm if runs else (),
            totals=self.activity.sums.now(),
            events=tuple(self.event_log.recent)[-LAST_EVENTS:],
            stages=self.activity.stages(),
            memory=memory(self.worker.pids),
            trains=self.config.node.trains,
            device=self._device(),
            order=self._order(),
        )

    def ledger(self) -> LedgerView:
        """Return the summary of the run's ledger."""
        return ledger_view(self.run) if self.run else NO_LEDGER

    def losses(self, run: str | None, most: int) -> LossView:
        """Return the held-out losses of a run; raises Unavailable for an unknown one."""
        record = self._known(run)
        if record is None:
            return LossView(run="", records=0, versions=(), overall=(), paths=())
        return loss_view(record, most)

    def records(self, run: str | None, first: int | None, most: int) -> RecordPage:
        """Return some records of a ledger; raises Unavailable for an unknown run."""
        record = self._known(run)
        if record is None:
            return RecordPage(run="", total=0, records=())
        return record_page(record, first, most, partial(self.saved_records, record.run))

    def _known(self, run: str | None) -> RunRecord | None:
        """Return a run by its id; without one the busiest, or None."""
        if run is None:
            return self.run
        record = self.run_store.runs.get(Digest(bytes.fromhex(run)))
        if record is None:
            raise Unavailable(f"this node does not know the run {run[:16]}")
        return record

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        """Fetch a blob that the ledger or the manifest of a run names; returns its bytes."""
        record = self._known(run)
        assert record is not None
        digest = Digest(bytes.fromhex(blob))
        length = _length_of(record, digest)
        if length is None:
            raise Unavailable(f"run {record.manifest.name} names no blob {blob[:16]}")
        holders = tuple(PeerId(peer) for peer in record.manifest.schedule.schedulers)
        await self.exchange.fetch(digest, length=length, holders=holders, progress=on_progress)
        return length

    async def events(self, after: int, since: float, most: int) -> EventPage:
        """Return some events of the journal."""
        read = partial(page_of, self.home.events, after, since, most + 1)
        found = await self.in_thread(read)
        return EventPage(events=tuple(found[:most]), more=len(found) > most)

    async def tasks(self, most: int) -> TaskPage:
        """Return the tasks in work, and the last that ended."""
        ended = await self.in_thread(partial(latest_tasks, self.home.events, most))
        working = self.activity.tasks.working
        return TaskPage(tasks=(*working, *ended)[:most])

    async def watch_rounds(self) -> NoReturn:
        """Note the pace of the runs, until cancelled."""
        while True:
            for record in self.runs:
                done = rounds_done(record)
                if done is not None:
                    self.activity.of(record.run).pace.note(time.time(), done)
            await self.run_store.changed.wait()

    # ------------------------------------------------------------------ parts of the document

    @property
    def _settings(self) -> NodeConfig:
        """The configuration as it is now."""
        return self.live().config if self.live else self.config

    def _order(self) -> OrderStatus:
        order = self.orders.order
        return OrderStatus(mode=order.mode, since=order.since, until=order.until)

    def _device(self) -> DeviceStatus | None:
        if not self.device.words:
            return None
        return DeviceStatus(
            text=self.device.words,
            celsius=self.celsius(),
            max_celsius=self._settings.compute.max_temp_c,
        )

    def _offer(self, record: RunRecord) -> Offer:
        heard = record.tally(self.me, record.newest())
        return Offer(
            id=record.run.hex(),
            name=record.manifest.name,
            owner=record.manifest.owner,
            verified=heard.verified,
            refuted=heard.refuted,
            scheduler=record.scheduler,
            answers=self._answers(record),
            over=record.over,
        )

    def _answers(self, record: RunRecord) -> bool:
        scheduler = record.scheduler
        listed = self.run_store.listed_by(scheduler) or ()
        connected = scheduler in self.transport.peers() and record.run in listed
        return scheduler == self.me or connected

    def _by_busyness(self) -> list[RunRecord]:
        order = self.activity.by_busyness
        known = [each for each in self.runs if each.run in order]
        return [
            *sorted(known, key=lambda each: order.index(each.run)),
            *(each for each in self.runs if each.run not in order),
        ]

    def _named(self, reason: Reason) -> Reason:
        """Return a reason that begins with the run's name, where there are several runs."""
        several, foremost = len(self.runs) > 1, self.activity.foremost
        names = {each.run: each.manifest.name for each in self.runs}
        shown = [run for run, each in self.activity.runs.items() if each is foremost]
        if not several or not shown or shown[0] not in names:
            return reason
        return replace(reason, text=f"{names[shown[0]]}: {reason.text}")

    def _run(self, record: RunRecord) -> RunBlock:
        rounds, activity = record.rounds, self.activity.of(record.run)
        heard = record.tally(self.me, record.newest())
        scheduler = self.schedulers.get(record.run)
        return RunBlock(
            id=record.run.hex(),
            name=record.manifest.name,
            owner=record.manifest.owner,
            spec=record.state.spec.hex() if record.state.spec else "",
            verdict=activity.verdict,
            stage=activity.stage,
            verified=heard.verified,
            refuted=heard.refuted,
            round=min(rounds.done + 1, rounds.last),
            rounds=rounds.last,
            finished=rounds.finished,
            held_out=held_out(rounds, record.manifest.tokenizer.vocabulary),
            state=activity.own_state,
            reason=activity.own_reason,
            reasons=activity.own_reasons,
            swarm=_swarm(record, self._held(record, activity)),
            swarm_time=time.time() if scheduler else activity.held_time,
            records=record.length,
            router=router_of(record, activity),
            pace=pace_of(record, activity),
            schedule=schedule_of(scheduler) if scheduler else None,
            place=activity.queued[0] if activity.queued else None,
            places=activity.queued[1] if activity.queued else None,
            lease_until=activity.lease_until if activity.task else None,
        )

    def _held(self, record: RunRecord, activity: RunActivity) -> dict[int, Held]:
        """Return who holds which path: from the schedule here, else as its scheduler told last.

        This node's own work is what it does now, whatever its scheduler knows of it.
        """
        scheduler = self.schedulers.get(record.run)
        told = holders(scheduler.schedule, scheduler.beats) if scheduler else activity.held
        held = {each.path: each for each in told if scheduler or each.peer != self.me}
        if not scheduler:  # our own results that wait for an outer step
            held |= {each.path: each for each in told if each.peer == self.me and each.submitted}
        task = activity.task
        if task is not None and task.kind not in (EVALUATE.name, DERIVE):
            held[task.path] = Held(
                path=task.path, round=task.round, peer=self.me, submitted=False, loss=task.loss
            )
        return held

    def _network(self) -> NetworkStatus:
        traffic, caps = self.transport.traffic, self._settings.network
        up, down = self._rates.look(trio.current_time(), traffic.sent, traffic.received)
        return NetworkStatus(
            listen=tuple(map(str, self.transport.addresses)),
            peers=len(self.transport.peers()),
            sent=traffic.sent,
            received=traffic.received,
            blobs=self._blob_bytes(),
            up=up,
            down=down,
            max_up=caps.max_up,
            max_down=caps.max_down,
            today=self.today(),
            daily_quota=caps.daily_quota,
        )

    def _blob_bytes(self) -> BlobBytes:
        traffic = self.exchange.traffic
        most = sorted(traffic.by_peer.items(), key=lambda each: -sum(each[1]))[:BLOB_PEERS]
        return BlobBytes(
            sent=traffic.sent,
            received=traffic.received,
            kinds=tuple(
                BlobKind(kind=kind, received=received)
                for kind, received in sorted(self.exchange.received_by_kind.items())
            ),
            peers=tuple(
                BlobPeer(id=peer, sent=sent, received=received) for peer, (sent, received) in most
            ),
        )

    def _peer(self, peer: PeerId) -> PeerStatus:
        seconds = self.liveness.round_trips.get(peer)
        sent, received = self.transport.traffic.by_peer.get(peer, (0, 0))
        return PeerStatus(
            id=peer,
            address=self.transport.remote_ip(peer) or "",
            rtt_ms=None if seconds is None else 1000 * seconds,
            since=self._since.get(peer),
            sent=sent,
            received=received,
        )

    def _cache(self) -> CacheStatus:
        latest = self.storage.latest
        return CacheStatus(
            bytes=latest.bytes if latest else 0,
            measured=latest.time if latest else None,
            max=self.config.storage.cache_max,
            shards=self.config.storage.max_shards,
        )


def _ordered(order: Order) -> Ordered:
    return Ordered(mode=order.mode, since=order.since, until=order.until, gpus_off=order.gpus_off)


def _swarm(record: RunRecord, held: Mapping[int, Held]) -> tuple[PathStatus, ...]:
    return tuple(_path(record, held.get(path), path) for path in range(record.manifest.paths))


def _path(record: RunRecord, held: Held | None, path: int) -> PathStatus:
    rounds = record.manifest.training.rounds
    round_ = record.state.path_version(path) + 1
    if held is not None and held.round < min(round_, rounds):
        held = None  # of a round that is over: it was told before the ledger's newest record
    return PathStatus(
        path=path,
        experts=experts_of(record.manifest.grid, path),
        round=min(round_, rounds),
        holder=held.peer if held else "",
        state=_path_state(held, over=round_ > rounds),
        loss=held.loss if held else None,
    )


def _path_state(held: Held | None, *, over: bool) -> PathState:
    if over:
        return "done"
    if held is None:
        return "idle"
    return "submitted" if held.submitted else "leased"


def _summary(block: RunBlock) -> RunStatus:
    return RunStatus(**{name: getattr(block, name) for name in RunStatus.__struct_fields__})


def _printable(path: Path) -> str:
    """Return a path as UTF-8 text: other bytes are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _length_of(record: RunRecord, blob: Digest) -> int | None:
    """Return the bytes of a state, score sheet or the tokenizer's file; None for another blob."""
    view = record.state
    if blob == record.manifest.tokenizer.sha256:
        return record.manifest.tokenizer.size
    for module, states in view.states.items():
        if blob in states:
            return view.topology.state_bytes(module)
    for entry in view.sheets():
        if blob == entry.sheet.digest:
            return SCORE_BYTES * entry.sheet.documents
    return None
