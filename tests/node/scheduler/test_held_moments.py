"""The moments that an open round began from are on keepers before the round closes."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.scheduler.replication import Replication
from dipaco.protocol.wire.digest import Digest
from tests.node.scheduler.kept_swarm import KeptSwarm
from tests.node.scheduler.swarm import SCHEDULER, Swarm
from tests.node.scheduler.test_marks import TWO_PATHS


async def test_no_round_closes_before_keepers_hold_the_moments_that_it_began_from(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, may, asked = Replication.hold, trio.Event(), set[Digest]()

    async def held(
        self: Replication, blobs: dict[Digest, int], holders: tuple[str, ...], *, what: str
    ) -> None:
        if "moments" in what:
            asked.update(blobs)
            await may.wait()
        await hold(self, blobs, holders, what=what)  # type: ignore[arg-type]

    monkeypatch.setattr(Replication, "hold", held)
    kept = KeptSwarm(swarm, tmp_path, changes={"grid": TWO_PATHS.grid})
    await kept.start_all("anna", "bert")
    parts = kept.nodes[SCHEDULER].parts
    state = parts.run_store.runs[kept.run].state
    await kept.until(lambda: bool(asked))  # round 1 has closed: its moments did not hold it up
    await trio.sleep(60.0)
    assert state.path_version(0) == state.path_version(1) == 1
    assert len(parts.request_router.schedulers[kept.run].schedule.state.accepted) == 2
    began = {digest for path in (0, 1) for _, digest in state.path_moments(path, 2)}
    assert asked == began
    may.set()
    await kept.until(lambda: kept.finished(SCHEDULER), seconds=60)
    keepers = [kept.nodes[name].parts.blobs for name in kept.keepers]
    assert began
    assert all(sum(each.has(digest) for each in keepers) >= 2 for digest in began)
