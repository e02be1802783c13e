"""Runs with keepers: no single death ends one, and no line that is cut makes two of it."""

from pathlib import Path

from trio.testing import MockClock

from tests.node.scheduler.kept_swarm import SECOND, KeptSwarm
from tests.node.scheduler.swarm import SCHEDULER, Swarm


async def test_a_run_with_keepers_goes_to_its_end(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = KeptSwarm(swarm, tmp_path)
    await kept.start_all("anna", "bert")
    await kept.until(lambda: kept.finished(SCHEDULER), seconds=2000)
    await kept.until(lambda: kept.chain("anna") == kept.chain(SCHEDULER), seconds=60)
    for name in ("kim", "ken", "kay", SECOND, "bert"):
        await kept.until(lambda: kept.chain(name) == kept.chain(SCHEDULER), seconds=60)  # noqa: B023
