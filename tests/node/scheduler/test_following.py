"""A changed configuration takes hold of a whole node while it runs: virtual time."""

from pathlib import Path

from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.assembly import follow
from dipaco.node.config import NetworkSection, StorageSection, WhenSection
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.values import manifest

ALL = 10**18  # bytes: more than any disk has free


async def test_limits_and_caps_of_a_changed_configuration_hold_at_once(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    node = (await swarm.start("anna")).parts
    await until(lambda: node.activity.state == "training")
    old = node.config
    changed = replace(
        old,
        storage=StorageSection(min_free=ALL),
        network=NetworkSection(max_up=5000, metered="ignore"),
        when=WhenSection(on_battery=True),
    )
    follow(node, changed)
    await until(lambda: node.activity.state == "paused", seconds=1.0)
    assert node.activity.reason.code == "disk"
    assert node.transport.caps.up.rate == 5000
    follow(node, old)
    await until(lambda: node.activity.state == "training")
    assert node.transport.caps.up.rate is None
