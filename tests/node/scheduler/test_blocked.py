"""A blob that nobody has: what the run says, and how it goes on. As in test_swarm."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import OuterStep
from dipaco.node.scheduler.recovery import FIRST_PAUSE, LONGEST_PAUSE, pause_after
from dipaco.protocol.run.manifest import Routing, run_id
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import STEM
from dipaco.protocol.wire.digest import Digest, short
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest

VALUE = replace(manifest(), routing=Routing(kind="round_robin", sample=128, dimension=64))
RUN = run_id(VALUE)


async def after_round_1(
    swarm: Swarm, tmp_path: Path, *, keeps: bool = False
) -> tuple[SwarmNode, SwarmNode]:
    """Return scheduler and volunteer at the stem's first outer step.

    keeps   whether the scheduler has removed no blob until then.
    """
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    if keeps:
        scheduler.parts.blobs.remove = lambda digest: None  # type: ignore[method-assign]
    anna = await swarm.start("anna")
    record = scheduler.parts.run_store.runs
    await until(lambda: RUN in record and record[RUN].state.version(STEM) == 1)
    return scheduler, anna


def lose(node: SwarmNode, module: ModuleId) -> tuple[Digest, bytes]:
    """Remove a module's momentum; return it."""
    blob = node.parts.run_store.runs[RUN].state.momenta[module]
    data = node.parts.blobs.read(blob, 1 << 20)
    node.parts.blobs.path(blob).unlink()
    return blob, data


async def test_a_momentum_that_nobody_has_blocks_the_run_with_its_name_and_not_for_ever(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, anna = await after_round_1(swarm, tmp_path)
    blob, data = lose(scheduler, STEM)
    await until(lambda: scheduler.parts.activity.reason.code == "blocked")
    text = scheduler.parts.activity.reason.text
    assert f"blocked: blob {short(blob)}, the momentum of module stem version 1" in text
    assert "last held by" in text and "put it back" in text
    await until(lambda: text[:40] in anna.parts.activity.reason.text)
    await trio.sleep(400)
    outer = [job for job in scheduler.worker.done if isinstance(job, OuterStep)]
    assert not [job for job in outer if job.module == STEM and job.momentum == blob]
    assert scheduler.parts.run_store.runs[RUN].state.version(STEM) == 1
    assert "next try in" in scheduler.parts.activity.reason.text
    assert scheduler.parts.blobs.write(data) == blob  # a person brings it back
    await until(lambda: scheduler.reporter.ledger().finished, seconds=2 * LONGEST_PAUSE)


async def test_a_blob_that_a_volunteer_has_comes_back_from_there(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, anna = await after_round_1(swarm, tmp_path)
    _, data = lose(scheduler, STEM)
    anna.parts.blobs.write(data)
    await until(lambda: scheduler.reporter.ledger().finished, seconds=600)
    assert scheduler.parts.exchange.received_by_kind["momentum"] == len(data)


async def test_a_momentum_is_made_again_by_the_outer_step_that_made_it(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    scheduler, _ = await after_round_1(swarm, tmp_path, keeps=True)
    blob, _ = lose(scheduler, STEM)
    await until(lambda: scheduler.reporter.ledger().finished, seconds=600)
    done = [job for job in scheduler.worker.done if isinstance(job, OuterStep)]
    stem = [job for job in done if job.module == STEM]
    assert stem[0] == stem[1] and stem[2].momentum == blob


def test_pauses_grow_to_minutes() -> None:
    pauses = [pause_after(tries) for tries in range(50)]
    assert pauses[0] == FIRST_PAUSE and pauses[-1] == LONGEST_PAUSE == 300
    assert pauses == sorted(pauses)
