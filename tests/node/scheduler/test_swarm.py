"""Whole nodes over the transport in memory: virtual time, real journals and blobs, fake work."""

from collections.abc import Callable
from pathlib import Path

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import Answer, Derive, Failed, Job, Progress
from dipaco.node.kinds.changes import STALL_TTLS
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import SeedResult
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest


async def run_to_end(swarm: Swarm, names: tuple[str, ...]) -> SwarmNode:
    scheduler = await swarm.start(SCHEDULER)
    for name in names:
        await swarm.start(name)
    await until(lambda: scheduler.reporter.ledger().finished)
    return scheduler


async def undisturbed(tmp_path: Path, value: Manifest | None = None) -> dict[str, list[str]]:
    """Return the states that the run ends with when one volunteer does all the work."""
    async with trio.open_nursery() as nursery:
        alone = Swarm(tmp_path / "alone", nursery)
        found(tmp_path / "alone", value or manifest())
        scheduler = await run_to_end(alone, ("zoe",))
        nursery.cancel_scope.cancel()
    return states(scheduler)


def states(node: SwarmNode) -> dict[str, list[str]]:
    view = node.reporter.ledger()
    return {module: list(by_version.values()) for module, by_version in view.states.items()}


async def test_a_run_goes_from_the_seed_to_the_last_evaluation(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    volunteers = [await swarm.start(name) for name in ("anna", "bert", "cara", "dora")]
    await until(lambda: scheduler.reporter.ledger().finished)
    ledger = scheduler.reporter.ledger()
    assert set(ledger.versions.values()) == {2}
    assert len(ledger.evaluations) == 3 * 4
    status = scheduler.reporter.status()
    assert status.run and status.run.finished and {p.state for p in status.swarm} == {"done"}

    await until(lambda: all(v.reporter.ledger() == ledger for v in volunteers), seconds=60)
    for each in volunteers:
        assert each.reporter.status().run.verdict == "verified"  # type: ignore[union-attr]
        assert isinstance(each.worker.done[0], Derive)  # verified before anything else
        await until(lambda: each.parts.activity.reason.code == "run-over", seconds=60)  # noqa: B023
    trained = sum(trains(job) for v in volunteers for job in v.worker.done)
    assert trained == 1 + 2 * 4  # the seed, and every path once a round


async def test_a_warm_start_comes_from_the_founder_and_stays_with_it(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    plain = manifest()
    top, blobs = plain.topology, BlobStore(Home.at(tmp_path / SCHEDULER).blobs)
    start = tuple(
        ModuleDigest(module=m, digest=blobs.write(bytes(top.state_bytes(m))))
        for m in top.path_modules[0]
    )
    found(tmp_path, replace(plain, start=start))
    scheduler = await run_to_end(swarm, ("anna", "bert"))
    ledger = scheduler.reporter.ledger()
    assert ledger.finished and all(blobs.has(each.digest) for each in start)
    cold = await undisturbed(tmp_path)
    assert states(scheduler)["stem"][0] != cold["stem"][0]


async def test_the_result_does_not_depend_on_who_works_nor_on_a_kill(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    victims = [await swarm.start(name) for name in ("anna", "bert")]
    await swarm.start("cara")
    for victim in victims:
        await until(lambda: victim.parts.activity.reason.code == "task")  # noqa: B023
        before = trio.current_time()
        holder = victim.parts.me
        await swarm.kill(victim)
        grants = scheduler.parts.request_router.schedulers[RUN].schedule.grants
        await until(lambda: all(g.peer != holder for g in grants.values()))  # noqa: B023
        assert trio.current_time() - before <= 3.0  # a closed socket needs no time to live
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_a_frozen_volunteer_loses_its_lease_and_stops_nobody(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    frozen = await swarm.start("anna")
    await until(lambda: frozen.parts.activity.reason.code == "task")
    swarm.network.freeze(frozen.parts.me)
    before = trio.current_time()
    other = await swarm.start("bert")
    grants = scheduler.parts.request_router.schedulers[RUN].schedule.grants
    await until(lambda: any(g.peer == other.parts.me for g in grants.values()))
    assert trio.current_time() - before <= manifest().schedule.lease_ttl + 3.0
    await trio.sleep(30.0)
    swarm.network.thaw(frozen.parts.me)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)
    assert frozen.error is None


async def test_a_scheduler_that_restarts_goes_on_where_it_was(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna, bert = [await swarm.start(name) for name in ("anna", "bert")]
    await until(lambda: anna.parts.activity.reason.code == "task")
    await swarm.kill(scheduler)
    await trio.sleep(10.0)
    scheduler = await swarm.start(SCHEDULER)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)
    assert not any(isinstance(job, Derive) for job in scheduler.worker.done)  # it is remembered
    trained = [job for v in (anna, bert) for job in v.worker.done if trains(job)]
    assert len(trained) == 1 + 2 * 4  # leases in hand went on, none was done twice


async def test_a_late_joiner_learns_that_the_run_is_over_and_derives_nothing(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await run_to_end(swarm, ("anna",))
    late = await swarm.start("bert")
    await until(lambda: late.parts.activity.reason.code == "run-over", seconds=10)
    assert late.reporter.ledger() == scheduler.reporter.ledger()
    assert late.parts.activity.reason.text == "round 2 of 2 done; no other run is on offer"
    await trio.sleep(60)
    assert late.worker.done == []
    assert late.reporter.status().run.verdict == "unverified"  # type: ignore[union-attr]


async def test_a_restarted_node_verifies_no_second_time(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: any(map(trains, anna.worker.done)))
    await swarm.kill(anna)
    again = await swarm.start("anna")
    await until(lambda: again.parts.activity.reason.code == "run-over")
    assert not any(isinstance(job, Derive) for job in again.worker.done)
    assert again.reporter.status().run.verdict == "verified"  # type: ignore[union-attr]
    await swarm.kill(again)
    again = await swarm.start("anna")
    await until(lambda: again.parts.activity.reason.code == "run-over", seconds=60)
    assert again.worker.done == []
    assert again.reporter.status().run.verdict == "verified"  # type: ignore[union-attr]


async def test_a_node_that_is_stopped_hands_its_lease_back(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.reason.code == "task")
    grants = scheduler.parts.request_router.schedulers[RUN].schedule.grants
    assert len(grants) == 1
    before = trio.current_time()
    anna.stop.set()
    await anna.ended.wait()
    assert not grants and trio.current_time() - before < 2.0
    assert anna.error is None


async def test_a_worker_that_fails_gives_the_lease_back_and_the_node_tries_again(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    killed = Failed(kind="local", reason="the worker process was killed by the kernel")
    anna = await swarm.start("anna", fail=[killed] * 6)
    await until(lambda: anna.parts.activity.reason.code == "failures")
    await until(lambda: "5 in a row" in anna.parts.activity.reason.text)
    assert anna.parts.activity.state == "paused"
    await until(lambda: scheduler.reporter.ledger().finished)


async def test_a_submission_that_does_not_pass_inspection_never_counts(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER, wrong="stem: holds a NaN")
    anna = await swarm.start("anna")
    await until(
        lambda: (
            anna.parts.activity.sums.now().refused > 0
            or anna.parts.activity.sums.now().accepted > 0
        ),
        seconds=600,
    )
    assert anna.parts.activity.sums.now().accepted == 0
    assert not scheduler.parts.run_store.runs[RUN].state.seeded
    assert scheduler.parts.reputation.strikes(anna.parts.me) == 1


async def test_a_holder_that_lost_a_blob_of_its_result_loses_its_lease_in_the_end(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    run, lost = anna.worker.run, list[Digest]()

    async def losing(job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        answer: Answer = await run(job, on_progress)
        if isinstance(answer, SeedResult) and not lost:
            lost.append(answer.states[-1].digest)
            anna.parts.blobs.remove(lost[0])  # the others arrive
        return answer

    anna.worker.run = losing
    await until(lambda: scheduler.reporter.ledger().finished)
    assert lost and trio.current_time() > STALL_TTLS * manifest().schedule.lease_ttl
