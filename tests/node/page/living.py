"""A daemon for a browser: the real server of the API on a real port, over values in memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec.structs import replace

from dipaco.node.api.port import Port
from dipaco.node.api.server import Ends, serve_api
from dipaco.node.api.values import LossView, Ordered, RecordPage
from dipaco.node.status.document import (
    DeviceStatus,
    OrderStatus,
    PathStatus,
    PeerStatus,
    Reason,
    Status,
    reason,
)
from dipaco.node.status.events import Event
from dipaco.node.status.run_details import (
    LeaseStatus,
    MemberStatus,
    PaceStatus,
    ReceiptStatus,
    RouterStatus,
    ScheduleStatus,
    StageDigest,
)
from dipaco.node.storage.files import Home
from tests.node.api.fake_node import PEER, RUN, FakeNode, block, status, task

TOKEN = "a-token-of-a-page"
ROUNDS, RECORDS = 5, 60
PAUSED = Reason(
    code="user", text="paused by you", since=1_800_000_000.0, cure="dipaco-node resume goes on"
)


class LiveNode(FakeNode):
    """Tells a status that a test changes, and obeys orders."""

    def __init__(self, *, founder: bool = False) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}
        """Fields of the status that differ."""
        self.founder = founder
        self.mode, self.steps = "runs", 12

    def status(self) -> Status:
        """As `Handler`."""
        run = replace(
            block(),
            records=RECORDS,
            rounds=ROUNDS,
            router=_router(),
            pace=PaceStatus(done=1.5, per_hour=12.0, ends=1_800_003_600.0),
            schedule=_schedule() if self.founder else None,
            place=None if self.founder else 2,
            places=None if self.founder else 3,
            lease_until=1_800_000_018.0,
        )
        paused = self.mode == "user"
        found = replace(
            status(work=task(done=self.steps)),
            runs=(run,),
            state="paused" if paused else "training",
            reasons=(PAUSED,) if paused else (self._at_work(),),
            order=OrderStatus(mode=self.mode, since=0.0, until=None),
            trains=not self.founder,
            device=DeviceStatus(text="cuda:0: RTX 3060, 12.6 GB", celsius=71.0, max_celsius=83),
        )
        return replace(found, **self.fields)

    def _at_work(self) -> Reason:
        progress = f": {self.steps} of 25 steps"
        return reason("task", 1_800_000_000.0, work="path 1 round 1", progress=progress)

    def pause(self, until: float | None) -> Ordered:
        """As `Handler`."""
        self.mode = "user"
        return super().pause(until)

    def resume(self) -> Ordered:
        """As `Handler`."""
        self.mode = "runs"
        return super().resume()

    def losses(self, run: str | None, most: int) -> LossView:
        """As `Handler`."""
        overall = (8.3, 7.1, 6.2, 5.9)
        return LossView(
            run=RUN,
            records=RECORDS,
            versions=(0, 1, 2, 3),
            overall=overall,
            paths=tuple((*(each + path / 10 for each in overall[:3]), None) for path in range(4)),
        )

    def records(self, run: str | None, first: int | None, most: int) -> RecordPage:
        """As `Handler`."""
        begin = max(0, RECORDS - most) if first is None else first
        (one,) = super().records(run, 0, 1).records
        numbers = range(begin, RECORDS)[:most]
        return RecordPage(
            run=RUN, total=RECORDS, records=tuple(replace(one, number=n) for n in numbers)
        )


def _router() -> RouterStatus:
    return RouterStatus(
        epoch=0,
        kind="kmeans",
        author=PEER,
        reason="derived again from 512 documents, equal in every byte",
        stages=tuple(
            StageDigest(stage=name, digest=f"{number:064x}")
            for number, name in enumerate(("source-bytes", "tokens", "features", "spec"))
        ),
        receipts=(ReceiptStatus(peer=PEER, outcome="verified"),),
    )


def _schedule() -> ScheduleStatus:
    lease = LeaseStatus(
        work="path 1 round 1",
        path=1,
        round=1,
        since=1_799_999_970.0,
        until=1_800_000_018.0,
        tokens_per_second=1500.0,
        loss=4.25,
        in_hand=False,
    )
    return ScheduleStatus(
        members=(
            MemberStatus(peer=PEER, proven=True, seconds=31.2, place=None, leases=(lease,)),
            MemberStatus(peer=PEER[:-1] + "B", proven=False, seconds=None, place=1, leases=()),
        ),
        count=2,
        tokens_per_second=1500.0,
        blocks=("the delta of path 0 round 1 is missing",),
    )


HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    "\u202eesrever\u2066 \x1b[31mred\x07 \u200bzero\ud83d &amp; 'quoted' \"twice\" ${1} {{2}}"
)


def hostile(node: LiveNode) -> None:
    """Have every text of the status that others may write be hostile."""
    text = HOSTILE.replace("\ud83d", "")  # no JSON encoder of ours writes half a character
    bad = Reason(code="blocked", text=text, since=0.0, cure=text)
    run = replace(
        node.status().runs[0],
        name=text,
        owner=text,
        stage=text,
        reason=bad,
        reasons=(bad,),
        swarm=(PathStatus(path=0, experts=(0,), round=1, holder=text, state="leased", loss=1.0),),
    )
    node.fields |= {
        "reason": bad,
        "reasons": (bad, bad),
        "runs": (run,),
        "run": None,
        "version": text,
        "home": text,
        "peers": (PeerStatus(id=text, address=text, rtt_ms=1.0),),
        "events": (Event(number=1, time=1.0, kind="state", code="blocked", text=text),),
    }


class PageServer:
    """A daemon that listens."""

    def __init__(self, home: Path, node: FakeNode, *, token: str = TOKEN, port: int = 0) -> None:
        self.node = node
        self._home, self._port = Home.at(home), Port("127.0.0.1", port, token)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self.address = ""
        """`http://127.0.0.1:PORT`."""

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._trio.run_sync_soon(self._scope.cancel)
        self._thread.join()

    async def _run(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            serve = partial(serve_api, self._home, self.node, self._port)
            ends: Ends = await nursery.start(serve)
            self.address = ends.url
            self._ready.set()

    @property
    def url(self) -> str:
        """The address with its token."""
        return f"{self.address}/#{TOKEN}"


@contextmanager
def serving_page(home: Path, node: FakeNode, **how: Any) -> Iterator[PageServer]:
    """Serve the page of a node while the block runs."""
    server = PageServer(home, node, **how)
    server.start()
    try:
        yield server
    finally:
        server.stop()
