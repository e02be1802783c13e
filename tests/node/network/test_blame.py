"""Who gets a strike for a wrong value that came by way of others.

Rules of this file: memory transport, virtual time, the shelf of test_gossip.
"""

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.gossip import LEDGER
from dipaco.protocol.errors import SignerFault
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.messages import Item
from tests.node.network.peers import PEERS
from tests.node.network.test_gossip import RUN, Shelf, swarms


class Judge(Shelf):
    """Finds every value wrong by the fault of one signer."""

    def __init__(self, signer: str) -> None:
        super().__init__()
        self._signer = signer

    def offer(self, kind: str, data: bytes, *, run: Digest | None = None, origin: str = "") -> None:
        self.offered += 1
        raise SignerFault("signed two ledgers", self._signer)


async def test_the_signer_is_struck_and_no_relay_and_nobody_is_asked_again(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0], Judge(PEERS[3]))
        relays = [await swarm.join(peer) for peer in PEERS[1:3]]
        signer = await swarm.join(PEERS[3], None, victim)
        for relay in relays:
            relay.shelf.put("spec", b"good")
            await relay.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(200)
        assert victim.shelf.offered == 1
        assert [victim.reputation.strikes(each.me) for each in (*relays, signer)] == [0, 0, 1]


async def test_a_known_signer_is_not_struck_and_its_run_goes_on(autojump_clock: MockClock) -> None:
    async with swarms() as swarm:
        victim = await swarm.join(PEERS[0], Judge(PEERS[1]))
        scheduler = await swarm.join(PEERS[1])
        scheduler.shelf.put("spec", b"good")
        victim.reputation.vouch(lambda peer: peer == PEERS[1])
        await scheduler.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(200)
        assert victim.shelf.offered == 1
        assert victim.reputation.strikes(scheduler.me) == 0
        assert victim.transport.peers() == {scheduler.me}


async def test_a_head_that_its_peer_does_not_hold_is_asked_for_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarms() as swarm:
        victim, liar = await swarm.join(PEERS[0]), await swarm.join(PEERS[1])
        asked = 0

        def read(run: Digest, first: int, limit: int) -> tuple[bytes, ...]:
            nonlocal asked
            asked += 1
            return ()

        head = Item(kind=LEDGER, run=RUN, digest=RUN, seq=1 << 40)
        monkeypatch.setattr(liar.shelf, "read_ledger", read)
        monkeypatch.setattr(liar.shelf, "inventory", lambda: (head,))
        await liar.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(200)
        assert asked == 1 and victim.reputation.strikes(liar.me) == 0


async def test_a_listing_that_names_a_value_twice_costs_a_strike(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarms() as swarm:
        victim, liar = await swarm.join(PEERS[0]), await swarm.join(PEERS[1])
        heads = tuple(Item(kind=LEDGER, run=RUN, digest=RUN, seq=n) for n in (1, 2))
        monkeypatch.setattr(liar.shelf, "inventory", lambda: heads)
        await liar.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(1)
        assert victim.reputation.strikes(liar.me) == 1


async def test_only_so_many_manifests_are_pulled_at_once_from_a_peer_that_is_not_known(
    autojump_clock: MockClock,
) -> None:
    async with swarms() as swarm:
        victim, stranger = await swarm.join(PEERS[0]), await swarm.join(PEERS[1])
        for number in range(100):
            stranger.shelf.put("manifest", b"good %d" % number)
        await stranger.transport.dial(victim.me, victim.transport.addresses)
        await trio.sleep(5)
        assert victim.shelf.offered == 64
        await trio.sleep(60)
        assert victim.shelf.offered == 100
