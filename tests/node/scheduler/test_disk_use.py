"""What the nodes of a run keep on their disks, round after round, and what they remove.

As in test_swarm: virtual time, real journals and blobs, fake work.
"""

from pathlib import Path

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.protocol.run.manifest import Manifest
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.values import manifest

ROUNDS = 15


def long_run(**training: object) -> Manifest:
    value = manifest()
    return replace(value, training=replace(value.training, rounds=ROUNDS, **training))


def bank(run: Manifest) -> int:
    """Return the bytes of the states of all modules."""
    return sum(run.topology.state_bytes(module) for module in run.topology.modules)


@pytest.mark.parametrize(
    ("inner_state", "updates"), [("carry", "int4"), ("reset", "f32")], ids=["most", "least"]
)
async def test_fifteen_rounds_stay_under_ten_times_the_bank(
    inner_state: str, updates: str, swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = long_run(inner_state=inner_state, updates=updates)
    found(tmp_path, run)
    nodes = [await swarm.start(name) for name in (SCHEDULER, "anna", "bert")]
    most = [0] * len(nodes)

    def finished() -> bool:
        for place, node in enumerate(nodes):
            most[place] = max(most[place], node.parts.blobs.total_bytes())
        return nodes[0].reporter.ledger().finished

    await until(finished)
    scheduler, *volunteers = (held / bank(run) for held in most)
    assert scheduler < 10 and max(volunteers) < 5
    left = [node.parts.blobs.total_bytes() / bank(run) for node in nodes]
    assert left[0] < 4 and max(left[1:]) < 1.5  # nobody trains on: moments and deltas went
