"""A daemon as the API's server sees it, and a status with every part filled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from dipaco.node.api.values import (
    ConfigView,
    EvaluationView,
    LedgerView,
    LossView,
    Ordered,
    RecordPage,
    RecordView,
    SettingView,
    Why,
)
from dipaco.node.seen import OutsideView, SeenFrom
from dipaco.node.status.document import (
    CacheStatus,
    HeldOut,
    Memory,
    NetworkStatus,
    Offer,
    PathStatus,
    PeerStatus,
    RunBlock,
    RunStatus,
    StageTime,
    Status,
    TaskStatus,
    Totals,
    reason,
)
from dipaco.node.status.event_log import EventLog
from dipaco.node.status.events import Event, EventPage, Outcome, TaskPage, TaskRecord
from dipaco.node.status.log_lines import LogLines
from dipaco.protocol.errors import ConfigError, Unavailable

PEER = "12D3KooW" + "A" * 44
RUN = "ab" * 32
TASK = reason("task", 1_800_000_000.0, work="path 1 round 1", progress=": 12 of 25 steps")
RUN_FIELDS: dict[str, Any] = {
    "id": RUN,
    "name": "demo",
    "owner": PEER,
    "spec": "cd" * 32,
    "verdict": "verified",
    "stage": "",
    "verified": 2,
    "refuted": 0,
    "round": 1,
    "rounds": 5,
    "finished": False,
    "held_out": HeldOut(
        version=3, tokens=5_200, perplexity=312.04, vocabulary=4096, bits_per_byte=2.4567
    ),
}
MISSING = "00" * 32
"""A blob that nobody has."""


def task(kind: str = "train", *, done: int = 12, round_: int = 1) -> TaskStatus:
    assert kind in ("seed", "train")
    return TaskStatus(
        kind="train" if kind == "train" else "seed",
        path=1,
        round=round_,
        stage="train",
        done=done,
        total=25,
        unit="steps",
        tokens_per_second=1500.0,
        loss=4.25,
    )


def block(peer: str = PEER) -> RunBlock:
    """Return the run with what happens in it."""
    return RunBlock(
        **RUN_FIELDS,
        state="training",
        reason=TASK,
        reasons=(TASK,),
        swarm=tuple(
            PathStatus(
                path=path,
                experts=divmod(path, 2),
                round=1,
                holder=peer if path == 1 else "",
                state="leased" if path == 1 else "idle",
                loss=4.25 if path == 1 else None,
            )
            for path in range(4)
        ),
        swarm_time=1_799_999_995.0,
    )


def status(*, peer: str = PEER, work: TaskStatus | None = None) -> Status:
    """Return a status in which nothing is left out."""
    return Status(
        version="0.1.0",
        peer=peer,
        pid=4242,
        home="/home/v/dipaco",
        rendezvous=False,
        time=1_800_000_000.0,
        uptime_s=3725.0,
        state="training",
        reason=TASK,
        reasons=(TASK,),
        run=RunStatus(**RUN_FIELDS),
        runs=(block(peer),),
        offers=(
            Offer(
                id=RUN,
                name="demo",
                owner=PEER,
                verified=0,
                refuted=0,
                scheduler=PEER,
                answers=True,
                over=False,
            ),
        ),
        task=work,
        network=NetworkStatus(
            listen=(f"/ip4/127.0.0.1/tcp/4410/p2p/{PEER}",), peers=1, sent=10, received=20
        ),
        peers=(
            PeerStatus(id=PEER, address="/ip4/127.0.0.1/tcp/1", rtt_ms=0.5, since=1_799_999_000.0),
        ),
        cache=CacheStatus(bytes=1, measured=1_799_999_990.0, max=10**10, shards=1),
        swarm=block(peer).swarm,
        totals=Totals(accepted=3, refused=1, tokens=38400, seconds=25.6),
        events=(Event(number=7, time=1_799_999_990.0, kind="node", code="started", text="1"),),
        stages=(StageTime(stage="derive", seconds=1.5, count=1),),
        memory=Memory(daemon=120_000_000, peak=130_000_000, worker=400_000_000),
    )


def ledger(
    versions: dict[str, int] | None = None, *, records: int = 7, finished: bool = False
) -> LedgerView:
    """Return a ledger whose modules stand at `versions`."""
    versions = {"stem": 1, "L1.E0": 1} if versions is None else versions
    return LedgerView(
        run=RUN,
        records=records,
        head="ef" * 32,
        versions=versions,
        states={m: {v: f"{v:064x}" for v in range(n + 1)} for m, n in versions.items()},
        evaluations=(
            EvaluationView(path=0, version=0, documents=3, tokens=100, nll=800.0, peer=PEER),
        ),
        finished=finished,
    )


def work(number: int, outcome: Outcome = "accepted") -> TaskRecord:
    """Return a task."""
    return TaskRecord(
        number=number,
        run=RUN,
        name="demo",
        kind="train",
        path=1,
        round=1,
        began=1_799_999_970.0,
        seconds=25.6,
        steps=25,
        tokens_per_second=1500.0,
        loss=4.25,
        received=2_000_000,
        sent=1_000_000,
        outcome=outcome,
    )


@dataclass
class FakeNode:
    """Answers with the values above, and notes how it was asked to stop."""

    stops: list[tuple[bool, bool]] = field(default_factory=list)
    fetched: trio.Event = field(default_factory=trio.Event)
    given_up: trio.Event = field(default_factory=trio.Event)
    """A fetch was cancelled."""
    event_log: EventLog = field(default_factory=EventLog)
    log_lines: LogLines = field(default_factory=LogLines)
    saved: list[Event] = field(default_factory=list)
    """The events of the journal."""

    async def events(self, after: int, since: float, most: int) -> EventPage:
        """As `Handler`."""
        found = [each for each in self.saved if each.number > after and each.time >= since]
        return EventPage(events=tuple(found[:most]), more=len(found) > most)

    async def tasks(self, most: int) -> TaskPage:
        """As `Handler`."""
        return TaskPage(tasks=(work(2, "working"), work(1))[:most])

    def status(self) -> Status:
        """As `Handler`."""
        return status(work=task())

    def ledger(self) -> LedgerView:
        """As `Handler`."""
        return ledger()

    def losses(self, run: str | None, most: int) -> LossView:
        """As `Handler`."""
        if run not in (None, RUN):
            raise Unavailable("this node does not know the run")
        losses = (8.0, 7.0)[-most:]
        return LossView(
            run=RUN, records=7, versions=(0, 1)[-most:], overall=losses, paths=(losses,) * 4
        )

    def records(self, run: str | None, first: int | None, most: int) -> RecordPage:
        """As `Handler`."""
        begin = max(0, 7 - most) if first is None else first
        return RecordPage(
            run=RUN,
            total=7,
            records=tuple(
                RecordView(
                    number=number,
                    term=0,
                    signer=PEER,
                    digest=f"{number:064x}",
                    kind="RoundMissed",
                    text=f"path 1 missed round {number}",
                    digests=(),
                )
                for number in range(begin, 7)[:most]
            ),
        )

    def settings(self) -> ConfigView:
        """As `Handler`."""
        file = "/home/h/config.toml, line 3"
        return ConfigView(
            settings=(SettingView(key="network.max_up", value="2 Mbit/s", origin=file),)
        )

    def stop(self, *, now: bool, restart: bool) -> None:
        """As `Handler`."""
        self.stops.append((now, restart))

    def pause(self, until: float | None) -> Ordered:
        """As `Handler`."""
        if until == 1.0:
            raise ConfigError("the end of the pause is in the past")
        return Ordered(mode="user", since=1_800_000_000.0, until=until)

    def resume(self) -> Ordered:
        """As `Handler`."""
        return Ordered(mode="runs", since=1_800_000_000.0, until=None)

    def switch_gpu(self, number: int, *, on: bool) -> Ordered:
        """As `Handler`."""
        if number:
            raise ConfigError(f"this node trains on cuda:0, not on cuda:{number}")
        return Ordered(
            mode="runs", since=1_800_000_000.0, until=None, gpus_off=() if on else (number,)
        )

    def finish(self) -> Ordered:
        """As `Handler`."""
        return Ordered(mode="finishing", since=1_800_000_000.0, until=None)

    async def outside(self) -> OutsideView:
        """As `Handler`."""
        await trio.lowlevel.checkpoint()
        seen = SeenFrom(
            peer=PEER, offset_s=0.5, round_trip_s=0.1, observed="203.0.113.7", port="answers"
        )
        return OutsideView(port=4410, answers=(seen,))

    async def why(self, at: float | None) -> Why:
        """As `Handler`."""
        await trio.lowlevel.checkpoint()
        since = 1_800_000_000.0
        return Why(at=at or since, state="training", reasons=(TASK,), since=since, until=None)

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        """As `Handler`: arrives in two parts, as `fetched` lets it."""
        if blob == MISSING:
            raise Unavailable("no connected peer has it")
        on_progress(4, 10)
        try:
            await self.fetched.wait()
        except trio.Cancelled:
            self.given_up.set()
            raise
        return 10
