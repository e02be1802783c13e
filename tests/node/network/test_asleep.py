"""A computer that slept.

Rules of this file: memory transport, virtual time; the clocks of the kernel are set by hand.
"""

import logging

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.asleep import LEAST_SECONDS, Awakening, Clocks, read_clocks, slept
from dipaco.node.network.memory import MemoryNetwork
from tests.node.network.peers import PEERS


def test_only_a_clock_that_stood_still_means_sleep() -> None:
    before = Clocks(awake=100.0, always=500.0)
    assert slept(before, Clocks(130.0, 530.0)) == 0
    assert slept(before, Clocks(130.0, 530.0 + LEAST_SECONDS - 0.1)) == 0
    assert slept(before, Clocks(110.0, 510.0 + 10_800)) == 10_800


def test_this_machine_does_not_sleep_while_it_is_looked_at() -> None:
    first, second = read_clocks(), read_clocks()
    assert (first is None) == (second is None)
    assert first is None or second is None or slept(first, second) == 0


async def test_a_node_that_slept_says_so_ends_its_connections_and_dials_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    asleep = 0.0
    dialled: list[float] = []

    def clocks() -> Clocks:
        now = trio.current_time()
        return Clocks(now, now + asleep)

    network = MemoryNetwork()
    async with (
        network.join(PEERS[0]) as here,
        network.join(PEERS[1]) as there,
        trio.open_nursery() as nursery,
    ):
        await here.dial(there.me, there.addresses)

        def dial_again() -> None:
            dialled.append(trio.current_time())

        with caplog.at_level(logging.INFO):
            await nursery.start(Awakening(here, dial_again, clocks=clocks).run)
            await trio.sleep(60)
            assert here.peers() and not dialled and not caplog.records
            asleep = 3 * 3600.0
            await trio.sleep(60)
        assert not here.peers() and len(dialled) == 1
        assert [each.getMessage() for each in caplog.records] == ["resumed after 3 h asleep"]
        nursery.cancel_scope.cancel()


async def test_a_system_with_one_clock_is_left_alone(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with network.join(PEERS[0]) as here, trio.open_nursery() as nursery:
        awakening = Awakening(here, lambda: pytest.fail("it slept"), clocks=lambda: None)
        await nursery.start(awakening.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
