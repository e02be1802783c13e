"""A swarm that trains for real, in this process, comes to the bits of the single-process run.

Whole nodes over the transport in memory, with the jobs done by the worker process's own code. Every
choice of the manifest that touches training is on in one of the runs; there are more paths than
volunteers, and one of them is killed on its way.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.config import StorageSection
from dipaco.node.jobs.values import Answer, Job, PerformLease, Progress
from dipaco.node.reference.run import ReferenceResult, run_reference
from dipaco.node.storage.files import Home
from dipaco.node.worker.performer import Performer
from dipaco.node.worker.process import perform
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.early_stopping import kept_version
from dipaco.protocol.run.manifest import Capacity, Manifest, Reshard, Routing, run_id
from dipaco.protocol.run.training import Adam, Muon, Training
from dipaco.protocol.work.kinds import TrainLease
from dipaco.protocol.work.losses import stated_bytes
from tests.golden.trajectories import tiny
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.settings import settings

MUON = Muon(lr=0.1, adamw_lr=0.05, warmup=2, clip=0.5)


class RealWorker:
    """Does every job as the worker process does; only training takes time, of the virtual clock."""

    def __init__(self, home: Home, *, max_shards: int = 4) -> None:
        self._performer = Performer(
            settings(home.root, storage=StorageSection(max_shards=max_shards))
        )
        self.trained: list[tuple[int, int]] = []
        """Path and round of every lease of a round."""
        self.pids: tuple[int, ...] = ()

    async def run(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        await trio.sleep(60.0 if trains(job) else 0.0)
        answer = perform(self._performer, job, on_progress)
        if isinstance(job, PerformLease) and isinstance(job.lease, TrainLease):
            self.trained.append((job.lease.path, job.lease.round))
        return answer

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


def everything() -> Manifest:
    """AdamW, carried moments, early stopping, overlap, path-specific parts, bf16, packed blobs.

    Its rate is so high that some paths are best as the seed model.
    """
    return tiny(
        rounds=2,
        inner_steps=3,
        inner=Adam(lr=0.1, warmup=2, clip=0.5),
        precision="bf16",
        deltas="int8",
        updates="int4",
    )


def sparse() -> Manifest:
    """Muon, sparse pseudo-gradients; what they leave out moves with the path, behind momenta."""
    return tiny(
        rounds=3,
        inner_steps=3,
        inner=MUON,
        early_stopping=False,
        deltas="topk",
        updates="int4",
    )


def stateless() -> Manifest:
    """Muon, nothing carried, deltas of 2 bits, float32, windows in turn, all shared, a basis.

    Its shards are bounded in tokens, and tokens behind the prefix are left unscored.
    """
    value = tiny(
        rounds=2,
        inner_steps=3,
        inner=MUON,
        inner_state="reset",
        early_stopping=False,
        deltas="int2",
    )
    return replace(
        value,
        source=replace(value.source, window=100),
        routing=replace(
            value.routing,
            featurizer="idf-svd-v1",
            dimension=64,
            capacity=Capacity(num=11, den=10, unit="tokens"),
            prefix=16,
            scored_from=32,
        ),
        grid=replace(value.grid, path_specific_blocks=(), path_specific_stem=False),
    )


def resharded() -> Manifest:
    """A new router after round 1, from scores of positions behind the prefix; shards in tokens."""
    value = tiny(rounds=2, inner_steps=3, early_stopping=False)
    return replace(
        value,
        routing=replace(
            value.routing,
            capacity=Capacity(num=5, den=4, unit="tokens"),
            prefix=16,
            scored_from=32,
            router_bp=3000,
            reshard=Reshard(after_round=1, tolerance=1),
        ),
    )


def muon() -> Manifest:
    """Muon's momentum carried; 4 bits both ways and a basis, as new runs have them."""
    usual = Training(seed_steps=4, rounds=2, inner_steps=3, batch=4, inner=MUON)
    assert (usual.deltas, usual.updates) == ("int4", "int4")
    routing = Routing(sample=64, validation_bp=1500, overlap=2)
    assert routing.featurizer == "idf-svd-v1"
    return replace(tiny(), training=usual, routing=routing)


@pytest.mark.parametrize(
    "value",
    [everything(), sparse(), stateless(), resharded(), muon()],
    ids=["everything", "sparse", "stateless", "resharded", "muon"],
)
async def test_a_swarm_with_fewer_volunteers_than_paths_equals_one_process_bit_for_bit(
    value: Manifest, swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, value)
    scheduler = await swarm.start(SCHEDULER, worker=RealWorker)
    anna = await swarm.start("anna", worker=RealWorker)
    bert = await swarm.start("bert", worker=RealWorker, max_shards=1)
    await until(lambda: len(anna.worker.trained) == 2)
    await swarm.kill(anna)
    await until(lambda: scheduler.reporter.ledger().finished)
    alone = run_reference(value, settings(tmp_path / "alone"), lambda what, progress: None)

    assert set(anna.worker.trained) | set(bert.worker.trained) == {
        (path, round_) for path in range(4) for round_ in range(1, value.training.rounds + 1)
    }
    assert not scheduler.worker.trained and bert.worker.trained
    view = scheduler.parts.run_store.runs[run_id(value)].state
    assert {m: tuple(digests) for m, digests in view.states.items()} == alone.states
    assert view.momenta == alone.momenta
    assert [spec_digest(each) for each in alone.specs] == list(view.specs)
    ours = {place: each.evaluation for place, each in view.evaluations.items()}
    assert ours == alone.evaluations
    assert all((stated_bytes(each) or -1) >= each.tokens for each in ours.values())
    kept = [view.kept_version(path) for path in range(4)]
    assert kept == [kept_alone(value, alone, path) for path in range(4)]
    assert (min(kept) < value.training.rounds) == value.training.early_stopping
    for path, version in enumerate(kept):
        for _, digest in view.path_states(path, version):
            assert scheduler.parts.blobs.has(digest)


def kept_alone(value: Manifest, result: ReferenceResult, path: int) -> int:
    losses = {v: e.nll / e.tokens for (v, p), e in result.evaluations.items() if p == path}
    return kept_version(value, value.training.rounds, losses)
