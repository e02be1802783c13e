"""The swarm that the tests of this folder start nodes in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.node.scheduling.swarm import Swarm


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()
