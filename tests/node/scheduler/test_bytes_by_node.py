"""Which node sends how much of a run's blobs: as in test_swarm, whole nodes on virtual time."""

from pathlib import Path

from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.protocol.run.manifest import Routing
from dipaco.protocol.run.model_shape import Grid, Level
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.values import manifest

VALUE = replace(
    manifest(),
    grid=Grid(
        levels=(Level(experts=2, blocks=1), Level(experts=4, blocks=1)), path_specific_blocks=()
    ),
    routing=Routing(kind="round_robin", sample=128, dimension=64),
)
"""Eight paths, by a router that costs nothing to derive."""

MOST_OF_SCHEDULER = 0.4  # of all bytes of blobs


async def test_the_scheduler_sends_less_than_two_fifths_of_what_eight_volunteers_fetch(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    volunteers = [await swarm.start(f"volunteer {number}") for number in range(8)]
    await until(lambda: scheduler.reporter.ledger().finished)
    nodes = (scheduler, *volunteers)
    blobs = [node.reporter.status().network.blobs for node in nodes]
    assert sum(each.sent for each in blobs) >= sum(each.received for each in blobs) > 0
    for each in blobs:
        assert each.sent == sum(peer.sent for peer in each.peers)
        assert each.received == sum(kind.received for kind in each.kinds)
    fetched = sum(each.received for each in blobs[1:])
    assert blobs[0].sent < MOST_OF_SCHEDULER * sum(each.sent for each in blobs)
    assert blobs[0].sent < MOST_OF_SCHEDULER * fetched
