"""A dry run on a network in memory: virtual time, real derivations of a fake worker."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.jobs.values import Answer, Job, MemoryProbed, ProbeMemory, Progress
from dipaco.node.roles.rehearsal import rehearse
from dipaco.node.stay import PEER_SECONDS
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import NoDevice, Refusal, Unavailable
from tests.node.scheduler.fakes import FakeWorker, derived
from tests.node.scheduler.swarm import RUN, SCHEDULER, Swarm, SwarmNode, found, publish, until
from tests.values import manifest


class Measured(FakeWorker):
    """A worker whose measurements take time, and fit or not."""

    fits = True

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        if isinstance(job, ProbeMemory):
            return MemoryProbed(fits=self.fits, peak=1000, micro_seconds=0.1, step_seconds=0.1)
        return await super().run(job, on_progress)


class TooSmall(Measured):
    fits = False


async def visitor(swarm: Swarm, worker: type[FakeWorker] = Measured) -> SwarmNode:
    """Start a node without work of its own, on which the dry run is tried."""
    return await swarm.start(
        "visitor", founds=True, worker=lambda home: worker(BlobStore(home.blobs))
    )


async def rehearsed(node: SwarmNode) -> list[str]:
    said: list[str] = []
    await rehearse(node.parts, node.reporter, said.append)
    return said


async def test_a_dry_run_verifies_says_what_fits_and_leases_nothing(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    node = await visitor(swarm)
    run, router, lease, fits = await rehearsed(node)
    assert run.startswith("run      ") and "signed by" in run
    assert router == "router   verified"
    assert lease.startswith("lease    the seed model")
    assert fits.startswith("fits     ") and "at once" in fits
    assert not scheduler.parts.request_router.schedulers[RUN].schedule.grants


async def test_in_a_run_that_goes_on_it_names_the_round_and_in_one_that_is_over_nothing(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna")
    await until(lambda: bool(scheduler.reporter.ledger().versions))
    node = await visitor(swarm)
    assert "paths in round " in (await rehearsed(node))[2]
    await until(lambda: scheduler.reporter.ledger().finished)
    assert (await rehearsed(node))[2] == "lease    none: the run is over"


async def test_a_refuted_router_ends_it(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    publish(scheduler, manifest(), derived(manifest(), shift=1))
    node = await visitor(swarm)
    with pytest.raises(Refusal):
        await rehearsed(node)


async def test_a_path_that_does_not_fit_ends_it(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    node = await visitor(swarm, TooSmall)
    with pytest.raises(NoDevice, match="does not fit"):
        await rehearsed(node)


async def test_without_a_run_it_ends_with_the_reason(
    swarm: Swarm, autojump_clock: MockClock
) -> None:
    await swarm.start(SCHEDULER)
    node = await visitor(swarm)
    start = trio.current_time()
    with pytest.raises(Unavailable, match="no run in 60 s: "):
        await rehearsed(node)
    assert trio.current_time() - start == pytest.approx(PEER_SECONDS)
