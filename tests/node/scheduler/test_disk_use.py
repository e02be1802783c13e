"""What the nodes of a run keep on their disks, round after round, and what they remove.

As in test_swarm: virtual time, real journals and blobs, fake work.
"""

from pathlib import Path

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import Failed, InspectResult
from dipaco.node.storage.files import folder_bytes
from dipaco.protocol.run.manifest import Manifest, run_id
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest

ROUNDS = 8


def long_run(**training: object) -> Manifest:
    value = manifest()
    return replace(value, training=replace(value.training, rounds=ROUNDS, **training))


def bank(run: Manifest) -> int:
    """Return the bytes of the states of all modules."""
    return sum(run.topology.state_bytes(module) for module in run.topology.modules)


def unneeded(node: SwarmNode) -> set[str]:
    """Return the blobs on a node's disk that nobody there claims."""
    held = {path.name for path in node.parts.home.blobs.glob("??/*")}
    return held - {digest.hex() for digest in node.parts.claims.claimed()}


async def test_eight_rounds_stay_under_ten_times_the_bank(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = long_run(inner_state="carry")  # what keeps most
    found(tmp_path, run)
    nodes = [await swarm.start(name) for name in (SCHEDULER, "anna", "bert")]
    most = [0] * len(nodes)

    while not nodes[0].reporter.ledger().finished:
        for place, node in enumerate(nodes):
            most[place] = max(most[place], folder_bytes(node.parts.home.blobs))
        await trio.sleep(3.0)  # a round takes more than a minute
    scheduler, *volunteers = (held / bank(run) for held in most)
    assert scheduler < 10 and max(volunteers) < 6
    assert [unneeded(node) for node in nodes] == [set(), set(), set()]
    left = [node.parts.blobs.total_bytes() / bank(run) for node in nodes]
    assert left[0] < 4 and max(left[1:]) < 1.5  # nobody trains on: moments and deltas went


async def test_a_refused_result_leaves_nothing_on_the_schedulers_disk(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER, wrong="")
    await swarm.start("anna")
    schedulers = scheduler.parts.request_router.schedulers
    await until(lambda: RUN in schedulers and schedulers[RUN].schedule.ledger.seeded)
    scheduler.worker.wrong = "not finite"
    scheduler.worker.done.clear()
    await until(lambda: any(isinstance(job, InspectResult) for job in scheduler.worker.done))
    await trio.sleep(1.0)
    assert scheduler.parts.exchange.received > bank(manifest())
    assert unneeded(scheduler) == set()


async def test_a_run_that_goes_on_leaves_the_blobs_that_another_run_still_needs(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    quick, slow = manifest(), replace(manifest(), name="slow")
    found(tmp_path, quick)
    found(tmp_path, slow)
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna", run=("tiny",))
    await swarm.start("bert", run=("slow",), fail=[Failed(kind="local", reason="away")] * 3)
    schedulers = scheduler.parts.request_router.schedulers

    def finished(run: Manifest) -> bool:
        record = scheduler.parts.run_store.runs.get(run_id(run))
        return record is not None and record.rounds.finished

    await until(lambda: finished(quick))
    ledgers = [schedulers[run_id(each)].schedule.ledger for each in (quick, slow)]
    first = [{states[0] for states in ledger.states.values()} for ledger in ledgers]
    assert first[0] == first[1], "the two runs share version 0"
    await until(lambda: finished(slow))
    assert unneeded(scheduler) == set()
