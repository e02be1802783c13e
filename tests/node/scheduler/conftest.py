"""The swarm that the tests of this folder start nodes in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.node.scheduler.swarm import Swarm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever starts a swarm as slow: a whole run, of many nodes."""
    for item in items:
        if "swarm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()
