"""How soon a run goes on after a node is gone or is back, on whole nodes in virtual time.

Each figure is a mark of docs/safety.md or docs/operation.md; real processes add their start and the
way of the messages.
"""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.jobs.values import Derive
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.work.calls import TermLeft
from dipaco.protocol.work.kinds import TrainLease
from tests.node.scheduler.kept_swarm import SECOND, KeptSwarm
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_take_over import started
from tests.values import manifest, peer

TWO_PATHS = manifest(
    grid=Grid(
        levels=(Level(experts=2, blocks=1), Level(experts=1, blocks=1)), path_specific_blocks=()
    )
)
LOOK_SECONDS = 0.01
AWAY_SECONDS = 40.0  # volunteers are done meanwhile, and their pauses between calls have grown


async def training(scheduler: SwarmNode) -> list[TrainLease]:
    """Wait until both paths train; returns their leases."""
    schedulers = scheduler.parts.request_router.schedulers
    await until(lambda: run_id(TWO_PATHS) in schedulers)
    schedule = schedulers[run_id(TWO_PATHS)].schedule
    await until(lambda: schedule.ledger.seeded and len(schedule.grants) == 2)
    leases = [grant.lease for grant in schedule.grants.values()]
    return [lease for lease in leases if isinstance(lease, TrainLease)]


async def test_a_scheduler_that_leaves_in_order_is_followed_at_once(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    final, hear = kept.chain(SCHEDULER), kept.nodes[SECOND].parts.request_router.term_left
    for name in ("anna", SCHEDULER):  # a stranger, and the scheduler for a term of another one
        with pytest.raises(RemoteProtocolError, match="belongs to another"):
            await hear(peer(name), TermLeft(run=kept.run, term=kept.term(SCHEDULER) + 1))
    later = kept.term(SCHEDULER) + 2  # its own, of which nobody knows yet
    await hear(peer(SCHEDULER), TermLeft(run=kept.run, term=later))
    await trio.sleep(5.0)
    assert kept.schedules(SCHEDULER) and not kept.schedules(SECOND)
    derived = kept.nodes[SECOND].worker.done  # the router is verified ahead
    await kept.until(lambda: any(isinstance(job, Derive) for job in derived), seconds=60)
    leaving = kept.nodes.pop(SCHEDULER)
    leaving.stop.set()
    took = await kept.until(lambda: kept.leases(SECOND) > 0, seconds=60)
    assert took <= 3.0
    await leaving.ended.wait()
    assert kept.chain(SECOND)[: len(final)] == final


async def test_the_work_of_a_volunteer_that_leaves_is_with_another_within_a_third_of_a_second(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, TWO_PATHS)
    scheduler = await swarm.start(SCHEDULER)
    volunteers = {peer(name): await swarm.start(name) for name in ("anna", "bert", "cara")}
    await training(scheduler)
    grants = scheduler.parts.request_router.schedulers[run_id(TWO_PATHS)].schedule.grants
    leaves = next(iter(grants.values()))
    (waits,) = volunteers.keys() - {grant.peer for grant in grants.values()}
    await trio.sleep(20.0)
    began = trio.current_time()
    volunteers[leaves.peer].stop.set()
    while not grants.of(waits):
        await trio.sleep(LOOK_SECONDS)
    assert trio.current_time() - began <= 0.3


async def test_a_scheduler_that_is_back_takes_in_results_within_five_seconds(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, TWO_PATHS)
    scheduler = await swarm.start(SCHEDULER)
    for name in ("anna", "bert"):
        await swarm.start(name)
    await training(scheduler)
    await trio.sleep(45.0)
    before = scheduler.parts.run_store.runs[run_id(TWO_PATHS)].length
    await swarm.kill(scheduler)
    await trio.sleep(AWAY_SECONDS)
    began = trio.current_time()
    scheduler = await swarm.start(SCHEDULER)
    await until(lambda: scheduler.parts.run_store.runs[run_id(TWO_PATHS)].length > before)
    assert trio.current_time() - began <= 5.0


async def test_so_does_one_with_keepers_of_which_one_is_frozen(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    grid = {"grid": TWO_PATHS.grid}
    kept = KeptSwarm(swarm, tmp_path, schedulers=(SCHEDULER,), changes=dict(grid))
    await kept.start_all("anna", "bert")
    state = kept.nodes[SCHEDULER].parts.run_store.runs[kept.run].state
    await kept.until(lambda: state.seeded and kept.leases(SCHEDULER) == 2)
    await trio.sleep(45.0)
    await kept.kill(SCHEDULER)
    await trio.sleep(AWAY_SECONDS)
    swarm.network.freeze(peer("kim"))
    began = trio.current_time()
    await kept.start(SCHEDULER)
    record = kept.nodes[SCHEDULER].parts.run_store.runs[kept.run]
    await kept.until(lambda: any(record.state.version(m) for m in record.state.states), seconds=60)
    assert trio.current_time() - began <= 5.0
