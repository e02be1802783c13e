"""Rules of this file: whole nodes over the transport in memory train a run to its end; then the
ledger is read in pages, and the status tells of router, queue and schedule.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from pytest import approx
from trio.testing import MockClock

from dipaco.node.api import ledger_pages
from dipaco.node.status.document import RunBlock
from dipaco.protocol.errors import Unavailable
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()


def block(node: SwarmNode) -> RunBlock:
    (run,) = node.reporter.status().runs
    return run


async def test_the_ledger_is_told_in_pages_and_its_losses_by_version(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = manifest()
    found(tmp_path, run)
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna")
    reporter = scheduler.reporter
    await until(lambda: reporter.ledger().finished)
    whole, rounds = reporter.records(None, 0, 100), run.training.rounds
    assert [each.number for each in whole.records] == list(range(whole.total))
    assert whole.total == reporter.ledger().records == block(scheduler).records
    assert whole.records[-1].digest == reporter.ledger().head
    kinds = {each.kind for each in whole.records}
    assert {"SpecAdopted", "Seeded", "ModuleUpdated", "Evaluated"} <= kinds
    assert reporter.records(None, None, 2).records == whole.records[-2:]
    assert reporter.records(whole.run, 1, 2).records == whole.records[1:3]
    assert reporter.records(None, whole.total, 2).records == ()
    monkeypatch.setattr(ledger_pages, "PAGE_BYTES", 1)
    assert reporter.records(None, 0, 100).records == whole.records[:1]

    losses = reporter.losses(None, 200)
    assert losses.versions == tuple(range(rounds + 1)) and len(losses.paths) == run.paths
    told = [each for each in reporter.ledger().evaluations if each.version == rounds]
    mean = sum(each.nll for each in told) / sum(each.tokens for each in told)
    assert losses.overall[-1] == approx(mean) and None not in losses.overall
    assert reporter.losses(None, 2).versions[-1] == rounds
    assert len(reporter.losses(None, 2).versions) <= 2
    monkeypatch.setattr(ledger_pages, "MAX_LOSSES", run.paths)
    assert reporter.losses(None, 200).versions == (rounds,)
    for ask in (reporter.losses, lambda run, most: reporter.records(run, None, most)):
        with pytest.raises(Unavailable, match="does not know the run"):
            ask("00" * 32, 1)


async def test_a_scheduler_tells_who_holds_what_and_who_waits(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = manifest()
    found(tmp_path, run)
    scheduler = await swarm.start(SCHEDULER)
    names = [f"volunteer-{number}" for number in range(run.paths + 1)]
    nodes = [await swarm.start(name) for name in names]

    def waiting() -> list[int]:
        schedule = block(scheduler).schedule
        return [each.place for each in schedule.members if each.place] if schedule else []

    await until(lambda: bool(waiting()))
    schedule = block(scheduler).schedule
    assert schedule is not None and schedule.count == len(schedule.members)
    assert all(each.leases or each.place for each in schedule.members)
    (lease,) = next(each.leases for each in schedule.members if each.leases)
    assert lease.since <= scheduler.reporter.status().time < lease.until
    await until(lambda: any(block(node).place for node in nodes if node.reporter.status().runs))
    await until(lambda: any(block(node).lease_until for node in nodes))
    assert all(block(node).schedule is None for node in nodes)


async def test_a_router_is_told_with_the_digest_of_every_stage(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: bool(anna.reporter.status().runs) and block(anna).verdict == "verified")
    router = block(anna).router
    assert router is not None and router.reason
    stages = [each.stage for each in router.stages]
    assert stages[-1] == "spec" and router.stages[-1].digest == block(anna).spec
    order = ["source-bytes", "tokens", "labels", "idf", "basis", "features", "centroids", "spec"]
    assert stages == [each for each in order if each in stages]
