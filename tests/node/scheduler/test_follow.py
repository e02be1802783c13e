"""A run that is followed from outside, by a node that takes no part in it.

Rules of this file: whole nodes over the transport in memory, virtual time, fake work.
"""

import dataclasses
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.config import RunSection
from dipaco.node.roles.follower import follow
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.manifest import run_id
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found
from tests.node.scheduler.test_choosing import AA


def watching(node: SwarmNode, name: str) -> SwarmNode:
    """Return the node with a configuration that names a run to follow."""
    config = replace(node.parts.config, run=RunSection(id=(name,)))
    return dataclasses.replace(node, parts=dataclasses.replace(node.parts, config=config))


async def test_a_run_is_followed_to_its_end_without_a_lease(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    await swarm.start(SCHEDULER)
    await swarm.start("anna")
    eve = watching(await swarm.start("eve", run=("none",)), "aa")
    seen: list[tuple[int, bool]] = []

    def told(record: RunRecord, connected: bool) -> None:
        assert record.run == run_id(AA)
        seen.append((record.length, connected))

    with trio.fail_after(3600):
        await follow(eve.parts, told)
    assert eve.parts.run_store.runs[run_id(AA)].over
    lengths = [length for length, _ in seen]
    assert lengths == sorted(lengths) and len(set(lengths)) > 3 and seen[-1][1]
    assert eve.worker.done == []


async def test_a_run_that_nobody_offers_is_given_up(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    await swarm.start(SCHEDULER)
    eve = watching(await swarm.start("eve", run=("none",)), "aa")
    with pytest.raises(Unavailable, match="no run in 60 s"):
        await follow(eve.parts, lambda record, connected: None)
