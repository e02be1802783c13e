"""Every place that touches a peer's value is fed an exception that is on no list.

Rules of this file: whole nodes over the transport in memory, virtual time. Each case breaks one
function of a rendezvous node for the values of one peer, has that peer do all that a peer can do,
and asks whether the node serves another.
"""

import contextlib
import logging
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.blob_stream import Download
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import Listing, ListPeers, Ping, Pong
from dipaco.protocol.wire.signed import sign
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, until
from tests.values import key, manifest

STRANGERS = manifest(name="strangers")
HANGS_UP = (
    "rpc._announce_arrival",
    "rpc._read",
    "rpc._on_request",
    "rpc._answer",
    "liveness._ping",
    "liveness._heard",
    "dialer._candidates.get",
    "dialer._register",
    "transport.remote_ip",
    "gossip._start",
    "gossip._compare",
    "gossip._check_inventory",
    "gossip._pull_one",
    "gossip._on_announcement",
    "exchange._uploads.serve",
    "exchange._fetcher._says_it_has",
    "exchange._fetcher._try",
    "exchange._fetcher._download",
)
"""Functions of a node that get a peer, or its stream: what they raise costs that peer its
connection."""
RESTS = frozenset({"gossip._pull_one"})
"""Called again only later: a peer with which every comparison fails waits for its turn."""
GOES_ON = (
    "dialer._start_due_dials",
    "dialer._save",
    "directory._save",
    "gossip._values.inventory",
    "gossip._values.offer",
    "run_store.note_listing",
    "storage._walk",
)
"""Functions that see the values of several peers, or of none in particular."""


def touches(value: object, peer: PeerId) -> bool:
    """Return whether an argument is `peer`, or a stream, line or download of it."""
    if isinstance(value, Download):
        value = value._stream
    value = getattr(value, "stream", value)
    return peer in (value, getattr(value, "peer", None))


def break_for(node: SwarmNode, name: str, hit: Callable[..., bool]) -> list[str]:
    """Have a function of a node raise when its arguments are a `hit`; returns its calls that did.

    name   of the function, from the node's parts on.
    """
    *way, last = name.split(".")
    owner: Any = reduce(getattr, way, node.parts)
    original, raised = getattr(owner, last), list[str]()

    def broken(*arguments: Any, **named: Any) -> Any:
        if hit(*arguments):
            raised.append(name)
            raise ZeroDivisionError("a slip\x1b[2J\nof ours")
        return original(*arguments, **named)

    setattr(owner, last, broken)
    return raised


async def do_all(swarm: Swarm, peer: SwarmNode, hub: SwarmNode) -> None:
    """Have `peer` do with `hub` what peers do, and `hub` with `peer`, on a new connection."""
    here, there = peer.parts, hub.parts
    swarm.network.disconnect(there.me, here.me)
    await trio.sleep(40)
    item = here.run_store.publish("manifest", sign(STRANGERS, key("owner")))
    await here.gossip.announce(item, 1000)
    for parts, holder in ((there, here), (there, None), (here, there)):
        digest = (holder or here).blobs.write(b"held by the peer or the hub")
        with trio.move_on_after(60), contextlib.suppress(DipacoError):
            await parts.exchange.fetch(digest, holders=(holder.me,) if holder else ())
        for each in (here, there):
            each.blobs.remove(digest)
    with trio.move_on_after(60), contextlib.suppress(DipacoError):
        await here.rpc.call(there.me, ListPeers(run=None, most=8), Listing, timeout=10)
    await trio.sleep(80)


async def serves(hub: SwarmNode, other: SwarmNode) -> None:
    assert not hub.ended.is_set() and not other.ended.is_set()
    await until(lambda: hub.parts.me in other.parts.rpc.ready(), seconds=300)
    await other.parts.rpc.call(hub.parts.me, Ping(), Pong, timeout=10)
    ask = ListPeers(run=None, most=8)
    await other.parts.rpc.call(hub.parts.me, ask, Listing, timeout=10)


@pytest.mark.parametrize("name", [*HANGS_UP, *GOES_ON])
async def test_an_exception_that_is_on_no_list_ends_no_node(
    name: str, swarm: Swarm, fed_bugs: list[logging.LogRecord], autojump_clock: MockClock
) -> None:
    hub = await swarm.start(SCHEDULER)
    honest, peer = await swarm.start("honest"), await swarm.start("peer")
    lost: list[PeerId] = []
    hub.parts.transport.watch(lambda who, here: None if here else lost.append(who))
    me = peer.parts.me
    if name in HANGS_UP:
        raised = break_for(hub, name, lambda *a: any(touches(each, me) for each in a))
    else:
        raised = break_for(hub, name, lambda *a: True)
    hub.parts.storage.look_soon()
    await do_all(swarm, peer, hub)
    assert raised and not hub.ended.is_set()
    if name in HANGS_UP:
        assert lost.count(me) > 1 and honest.parts.me not in lost
        assert not hub.parts.reputation.strikes(me)
        await serves(hub, honest)
    told = [report.getMessage() for report in fed_bugs]
    assert told and len(set(told)) == len(told)  # one record for each thing that was being done
    assert all(m.startswith("a bug of this node, while ") and m.isprintable() for m in told)
    assert all(report.exc_info for report in fed_bugs)
    before = len(raised)
    await do_all(swarm, peer, hub)
    assert (len(raised) > before or name in RESTS) and not hub.ended.is_set()
    told = [report.getMessage() for report in fed_bugs]
    assert len(set(told)) == len(told)
