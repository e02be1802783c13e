"""A swarm with late paths, in real training: its ledger, trained again in one process, is the same.

As test_real_training, in runs with a quorum; a volunteer is too slow for its path.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import Answer, Job, PerformLease, Progress
from dipaco.node.reference.replay import replay
from dipaco.node.runs.files import sign_manifest
from dipaco.node.runs.known import read_records
from dipaco.node.runs.ledger_file import checked
from dipaco.protocol.run.manifest import Manifest, Reshard, run_id
from dipaco.protocol.run.training import Adam, Quorum
from dipaco.protocol.work.kinds import TrainLease
from tests.golden.trajectories import tiny
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.node.scheduler.test_real_training import RealWorker
from tests.settings import settings
from tests.values import key

HALF = Quorum(num=1, den=2, grace=100)  # a path trains in 60 s


class SlowWorker(RealWorker):
    """Takes fifteen minutes for a path of round 1, one minute for one of another."""

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        if isinstance(job, PerformLease) and isinstance(job.lease, TrainLease):
            await trio.sleep(840.0 if job.lease.round == 1 else 0.0)
        return await super().run(job, on_progress)


def carried() -> Manifest:
    """Carried moments and residuals, path-specific parts, packed blobs both ways."""
    return tiny(
        rounds=2,
        inner_steps=2,
        inner=Adam(lr=0.1, warmup=2, clip=0.5),
        deltas="topk",
        updates="int4",
        quorum=HALF,
    )


def resharded() -> Manifest:
    """A new router after the round that a path misses; all modules shared, nothing carried."""
    value = tiny(rounds=2, inner_steps=2, early_stopping=False, inner_state="reset", quorum=HALF)
    return replace(
        value,
        routing=replace(value.routing, router_bp=3000, reshard=Reshard(after_round=1, tolerance=1)),
        grid=replace(value.grid, path_specific_blocks=(), path_specific_stem=False),
    )


@pytest.mark.parametrize("value", [carried(), resharded()], ids=["carried", "resharded"])
async def test_the_ledger_of_a_swarm_with_a_late_path_is_trained_again_to_the_bit(
    value: Manifest, swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, value)
    scheduler = await swarm.start(SCHEDULER, worker=RealWorker)
    await swarm.start("anna", worker=RealWorker)
    await swarm.start("dora", worker=SlowWorker)
    await until(lambda: scheduler.reporter.ledger().finished)
    view = scheduler.parts.run_store.runs[run_id(value)].state
    assert view.missed.keys() == {1}
    assert view.contributors.keys() == {0, 1, 2, 3}  # in round 2 all take part

    run = sign_manifest(value, key("owner"))
    records = checked(run, read_records(run.id, tmp_path / SCHEDULER), "the journal")
    alone = settings(tmp_path / "alone")
    again = replay(value, records, alone, lambda what, progress: None)
    assert (again.difference, again.same) == ("", len(records))
    assert again.result.states == {m: tuple(digests) for m, digests in view.states.items()}
    assert again.result.momenta == view.momenta
    said = {place: each.evaluation for place, each in view.evaluations.items()}
    assert again.result.evaluations == said
