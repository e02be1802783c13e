"""The daemon's answers to the local API: the status document and the ledger's summary.

It reads the state of the daemon's other parts from memory, reads no disk, and changes nothing.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dipaco.node.api.values import EvaluationView, LedgerView
from dipaco.node.config import NodeConfig
from dipaco.node.jobs.runner import JobRunner
from dipaco.node.kinds.changes import Grant
from dipaco.node.kinds.table import EVALUATE, kind_of, work_of
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.liveness import Liveness
from dipaco.node.network.transport import Transport
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.scheduler.scheduled import ScheduledRun, ScheduledRuns
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.status.activity import Activity
from dipaco.node.status.counters import StorageMeter, memory
from dipaco.node.status.document import (
    CacheStatus,
    NetworkStatus,
    Offer,
    PathState,
    PathStatus,
    PeerStatus,
    RunStatus,
    ScheduledStatus,
    Status,
)
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.routing.labels import SCORE_BYTES
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId


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
    scheduled: ScheduledRuns
    schedulers: dict[Digest, Scheduler]
    leave: Callable[[], None]
    run: RunRecord | None = None
    """The run that this node takes part in; of several that it schedules, the first."""
    started: float = 0.0
    """Unix time, seconds."""

    def stop(self, *, now: bool) -> None:
        """Begin to stop; `now`: end the process at once."""
        if now:
            os._exit(0)
        self.leave()

    def status(self) -> Status:
        """Return the whole document."""
        now, busiest = time.time(), self.scheduled.busiest()
        run = busiest.record if busiest else self.run
        activity = self.activity
        if busiest and activity.state != "stopping":
            activity = busiest.activity
        return Status(
            version=self.version,
            peer=self.me,
            pid=os.getpid(),
            home=_printable(self.home.root),
            rendezvous=self.config.node.rendezvous,
            time=now,
            uptime_s=now - self.started,
            state=activity.state,
            reason=activity.reason,
            run=self._run(run, activity) if run else None,
            scheduled=tuple(map(self._scheduled, self.scheduled)),
            offers=tuple(map(self._offer, self.run_store.runs.values())),
            task=activity.task,
            network=self._network(),
            peers=tuple(map(self._peer, sorted(self.transport.peers()))),
            cache=self._cache(),
            swarm=self._swarm(run) if run else (),
            totals=self.activity.totals(),
            stages=self.activity.stages(),
            memory=memory(self.worker.pid),
        )

    def ledger(self) -> LedgerView:
        """Return the summary of the run's ledger."""
        if self.run is None:
            return LedgerView(
                run="", records=0, head="", versions={}, states={}, evaluations=(), finished=False
            )
        view = self.run.state
        return LedgerView(
            run=self.run.run.hex(),
            records=self.run.length,
            head=self.run.head.hex(),
            versions={m: view.version(m) for m in view.states},
            states={
                m: {version: digest.hex() for version, digest in enumerate(states)}
                for m, states in view.states.items()
            },
            evaluations=tuple(
                EvaluationView(
                    path=e.path,
                    version=e.version,
                    documents=e.evaluation.documents,
                    tokens=e.evaluation.tokens,
                    nll=e.evaluation.nll,
                    peer=e.peer,
                )
                for _, e in sorted(view.evaluations.items())
            ),
            finished=self.run.rounds.finished,
        )

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        """Fetch a blob that the ledger or the manifest of a run names; returns its bytes."""
        record = self.run_store.runs.get(Digest(bytes.fromhex(run)))
        if record is None:
            raise Unavailable(f"this node does not know the run {run[:16]}")
        digest = Digest(bytes.fromhex(blob))
        length = _length_of(record, digest)
        if length is None:
            raise Unavailable(f"run {record.manifest.name} names no blob {blob[:16]}")
        holders = tuple(PeerId(peer) for peer in record.manifest.schedule.schedulers)
        await self.exchange.fetch(digest, length=length, holders=holders, progress=on_progress)
        return length

    # ------------------------------------------------------------------ parts of the document

    def _offer(self, record: RunRecord) -> Offer:
        heard = record.tally(self.me, record.newest())
        return Offer(
            id=record.run.hex(),
            name=record.manifest.name,
            owner=record.manifest.owner,
            verified=heard.verified,
            refuted=heard.refuted,
            scheduler=record.scheduler,
            answers=record.scheduler in self.transport.peers() | {self.me},
            over=record.over,
        )

    def _scheduled(self, run: ScheduledRun) -> ScheduledStatus:
        return ScheduledStatus(
            run=self._run(run.record, run.activity),
            state=run.activity.state,
            reason=run.activity.reason,
            held=run.held,
        )

    def _run(self, record: RunRecord, activity: Activity) -> RunStatus:
        rounds = record.rounds
        heard = record.tally(self.me, record.newest())
        return RunStatus(
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
        )

    def _network(self) -> NetworkStatus:
        traffic = self.transport.traffic
        return NetworkStatus(
            listen=tuple(map(str, self.transport.addresses)),
            peers=len(self.transport.peers()),
            sent=traffic.sent,
            received=traffic.received,
        )

    def _peer(self, peer: PeerId) -> PeerStatus:
        seconds = self.liveness.round_trips.get(peer)
        return PeerStatus(
            id=peer,
            address=self.transport.remote_ip(peer) or "",
            rtt_ms=None if seconds is None else 1000 * seconds,
        )

    def _cache(self) -> CacheStatus:
        latest = self.storage.latest
        return CacheStatus(
            bytes=latest.bytes if latest else 0,
            measured=latest.time if latest else None,
            max=self.config.storage.cache_max,
            shards=self.config.storage.max_shards,
        )

    def _swarm(self, record: RunRecord) -> tuple[PathStatus, ...]:
        scheduler = self.schedulers.get(record.run)
        return tuple(self._path(record, scheduler, p) for p in range(record.manifest.paths))

    def _path(self, record: RunRecord, scheduler: Scheduler | None, path: int) -> PathStatus:
        rounds = record.manifest.training.rounds
        round_ = record.state.path_version(path) + 1
        grant = _training_grant(scheduler, path) if scheduler else None
        submitted = scheduler is not None and (path, round_) in scheduler.schedule.state.accepted
        beat = scheduler.beats.get(grant.lease.token) if scheduler and grant else None
        return PathStatus(
            path=path,
            experts=experts_of(record.manifest.grid, path),
            round=min(round_, rounds),
            holder=grant.peer if grant else "",
            state=_path_state(over=round_ > rounds, leased=grant is not None, submitted=submitted),
            loss=beat.loss if beat else None,
        )


def _path_state(*, over: bool, leased: bool, submitted: bool) -> PathState:
    if over:
        return "done"
    if leased:
        return "leased"
    return "submitted" if submitted else "idle"


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


def _training_grant(scheduler: Scheduler, path: int) -> Grant | None:
    for grant in scheduler.schedule.grants.values():
        if kind_of(grant.lease) is not EVALUATE and work_of(grant.lease).path == path:
            return grant
    return None
