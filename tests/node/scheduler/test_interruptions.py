"""Runs that are interrupted wherever they can be: they end with the digests of one left alone.

As in test_swarm: virtual time, real journals and blobs, fake work whose result depends on every
state and every moment that a lease names.
"""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.kinds.table import work_of
from dipaco.node.storage.journal import Journal
from dipaco.protocol.run.manifest import Reshard, run_id
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.work.kinds import decode_lease
from tests.node.scheduler.fakes import train_leases
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.values import manifest

VALUE = manifest(
    grid=Grid(
        levels=(Level(experts=2, blocks=1), Level(experts=1, blocks=1)), path_specific_blocks=()
    ),
    training=replace(manifest().training, updates="int4"),
    routing=replace(manifest().routing, router_bp=2500, reshard=Reshard(after_round=1)),
)
"""Two paths: so few that every step can be gone through, scores and the second router's too."""


class Killer:
    """Kills a node whenever its journal is in a state in which it has not killed it yet."""

    def __init__(self, victim: str) -> None:
        self._victim = victim
        self._seen: set[object] = set()
        self.kills = 0

    def __call__(self, name: str, journal: Journal) -> bool:
        if name != self._victim:
            return False
        leases = (decode_lease(each.data) for each in journal.leases(run_id(VALUE)))
        state = (
            journal.ledger_length(run_id(VALUE)),
            frozenset((each.round, each.path) for each in journal.results(run_id(VALUE))),
            frozenset(map(work_of, leases)),
            len(journal.signed("spec")),
            len(journal.signed("receipt")),
        )
        if state in self._seen:
            return False
        self._seen.add(state)
        self.kills += 1
        return True


@pytest.mark.parametrize(("victim", "least"), [(SCHEDULER, 30), ("anna", 15)])
async def test_a_node_killed_after_every_step_of_its_journal_changes_no_digest(
    victim: str, least: int, swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    nodes: dict[str, SwarmNode] = {}
    killer = Killer(victim)
    swarm.after_commit = killer

    async def live(name: str) -> None:
        while True:
            nodes[name] = await swarm.start(name)
            await nodes[name].ended.wait()

    async with trio.open_nursery() as nursery:
        for name in (SCHEDULER, "anna", "bert"):
            nursery.start_soon(live, name)
            await until(lambda: name in nodes)  # noqa: B023
        await until(lambda: nodes[SCHEDULER].reporter.ledger().finished, seconds=20_000)
        ended = states(nodes[SCHEDULER])
        nursery.cancel_scope.cancel()
    assert killer.kills >= least
    swarm.after_commit = lambda name, journal: False
    assert ended == await undisturbed(tmp_path, VALUE)


async def test_moments_that_nobody_has_any_more_are_made_again_and_nothing_else(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Their maker dies for good in the moment in which its pseudo-gradients count."""
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    taken: set[tuple[int, int]] = set()

    def kill_anna(name: str, journal: Journal) -> bool:
        if name == SCHEDULER and not taken:
            taken.update((each.path, each.round) for each in journal.results(run_id(VALUE)))
            if taken:
                swarm.network.kill(anna.parts.me)
                anna.scope.cancel()
        return False

    swarm.after_commit = kill_anna
    await anna.ended.wait()
    bert = await swarm.start("bert")
    await until(lambda: scheduler.reporter.ledger().finished)
    trained = train_leases(bert.worker.done)
    assert sorted((lease.path, lease.round) for lease in trained) == [
        (path, round_) for path in (0, 1) for round_ in (1, 2)
    ]  # anna's path once more, and what she had not done
    assert len(taken) == 1
    assert states(scheduler) == await undisturbed(tmp_path, VALUE)


async def test_moments_that_the_scheduler_lost_come_from_their_maker_or_are_made_again(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    schedulers = scheduler.parts.request_router.schedulers
    await until(lambda: run_id(VALUE) in schedulers)
    schedule = schedulers[run_id(VALUE)].schedule
    await until(lambda: bool(schedule.state.accepted) and not list(schedule.state.pending))
    (accepted,) = schedule.state.accepted.values()
    scheduler.parts.blobs.remove(accepted.result.moments[-1].digest)
    await swarm.kill(anna)
    bert = await swarm.start("bert")
    await until(lambda: scheduler.reporter.ledger().finished)
    trained = train_leases(bert.worker.done)
    assert sum((each.path, each.round) == (accepted.path, 1) for each in trained) == 1
    assert states(scheduler) == await undisturbed(tmp_path, VALUE)
