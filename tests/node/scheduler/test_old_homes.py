"""A scheduler whose journal is older than what it signed: an old copy of its home, or none at all.

As in test_swarm: virtual time, real journals and blobs, fake work.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.network.gossip import Gossip
from dipaco.node.scheduler.catching_up import MOST_SECONDS, RETURN_SECONDS, must_wait
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskInventory, Inventory
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.values import manifest, peer

VALUE = manifest(
    grid=Grid(levels=(Level(experts=2, blocks=1),), path_specific_blocks=()),
)
RUN = run_id(VALUE)


def journal_files(home: Path) -> list[Path]:
    return list(home.glob("journal.sqlite*"))


def slowed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return where to put the seconds that anna and bert take to tell what they hold."""
    seconds: list[float] = []
    answer = Gossip._answer_inventory

    async def answer_late(self: Gossip, who: PeerId, ask: AskInventory) -> Inventory:
        if self._transport.me in (peer("anna"), peer("bert")):
            await trio.sleep(sum(seconds))
        return await answer(self, who, ask)

    monkeypatch.setattr(Gossip, "_answer_inventory", answer_late)
    return seconds


def older(copy: Path, home: Path) -> None:
    for path in journal_files(copy):
        shutil.copy(path, home)


def none(_copy: Path, _home: Path) -> None:
    pass


@pytest.mark.parametrize("restore", [older, none])
async def test_what_a_scheduler_forgot_it_learns_from_its_peers_and_contradicts_nobody(
    restore: Callable[[Path, Path], None],
    swarm: Swarm,
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = slowed(monkeypatch)
    found(tmp_path, VALUE)
    home, copy = tmp_path / SCHEDULER, tmp_path / "copy"
    scheduler = await swarm.start(SCHEDULER)
    volunteers = [await swarm.start(name) for name in ("anna", "bert")]
    record = scheduler.parts.run_store.runs
    await until(lambda: RUN in record and record[RUN].state.seeded)
    copied = scheduler.parts.run_store.length(RUN)
    copy.mkdir()
    for path in journal_files(home):
        shutil.copy(path, copy)
    await until(lambda: max(record[RUN].state.path_version(path) for path in range(2)) == 1)
    signed = scheduler.parts.run_store.length(RUN)
    assert signed > copied + 2
    await until(lambda: all(each.parts.run_store.length(RUN) >= signed for each in volunteers))
    await swarm.kill(scheduler)
    for path in journal_files(home):
        path.unlink()
    restore(copy, home)
    slow.append(8.0)  # on a slow line: meanwhile a newcomer could evaluate, and it be recorded
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("cara")
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path, VALUE)
    for node in (scheduler, *volunteers):
        assert node.parts.run_store.runs[RUN].fault is None and node.error is None
        assert not any(node.parts.reputation.strikes(other) for other in others(node))
    trained = sum(trains(job) for node in volunteers for job in node.worker.done)
    assert trained <= 1 + 2 * 2 + len(volunteers)  # at most what was in hand is done again


def others(node: SwarmNode) -> list[PeerId]:
    return [peer(name) for name in (SCHEDULER, "anna", "bert") if peer(name) != node.parts.me]


@pytest.mark.parametrize(
    ("since", "unheard", "expected", "waits"),
    [
        (0.0, (), False, False),  # a new home, and nobody there
        (0.0, (), True, True),  # those of an earlier start may come
        (RETURN_SECONDS, (), True, False),  # alone in the world
        (RETURN_SECONDS, ("anna",), True, True),  # somebody is telling
        (MOST_SECONDS, ("anna",), True, False),  # or pretends to
    ],
)
def test_the_first_lease_waits_for_what_peers_hold_and_not_for_ever(
    since: float, unheard: tuple[str, ...], expected: bool, waits: bool
) -> None:
    assert must_wait(since, frozenset(map(peer, unheard)), expected=expected) is waits
