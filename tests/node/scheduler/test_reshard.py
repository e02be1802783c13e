"""A run that re-shards, by whole nodes in virtual time: scores, the switch, and who lies in it."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from dipaco.node.jobs.values import Derive, PerformLease, Rescore
from dipaco.node.kinds.table import work_of
from dipaco.protocol.errors import Refusal
from dipaco.protocol.routing.labels import read_sheet
from dipaco.protocol.routing.spec import CLASS_MEANS, spec_digest
from dipaco.protocol.routing.verdict import Outcome
from dipaco.protocol.run.manifest import Manifest, Reshard, Routing, run_id
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.work.kinds import Scored
from dipaco.protocol.work.ledger import ModuleUpdated, SpecAdopted
from tests.ledgers import entries_of
from tests.node.scheduler.fakes import scored, trains
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import manifest

RESHARD = Reshard(after_round=1)


def resharding(*, windows: int = 1, **changes: int) -> Manifest:
    """Return a run of three rounds that re-shards after the first."""
    reshard = msgspec.structs.replace(RESHARD, windows=windows, **changes)
    window = 400 // windows
    return manifest(
        source=Source(kind="synthetic", revision="1", files=(), documents=400, window=window),
        routing=Routing(sample=128, dimension=64, router_bp=2500, reshard=reshard),
        training=msgspec.structs.replace(manifest().training, rounds=3),
    )


async def begin(swarm: Swarm, home: Path, run: Manifest) -> SwarmNode:
    found(home, run)
    return await swarm.start(SCHEDULER)


def specs(node: SwarmNode, run: Manifest) -> list[bytes]:
    return list(node.parts.run_store.runs[run_id(run)].state.specs)


async def test_a_run_re_shards_between_two_rounds_and_every_node_verifies_it(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = resharding(windows=2)
    scheduler = await begin(swarm, tmp_path, run)
    volunteers = [await swarm.start(name) for name in ("anna", "bert", "cara")]
    await until(lambda: scheduler.reporter.ledger().finished)
    entries = entries_of(scheduler.parts.run_store, run_id(run))
    adopted = [i for i, e in enumerate(entries) if isinstance(e, SpecAdopted)]
    versions = {e.version: i for i, e in enumerate(entries) if isinstance(e, ModuleUpdated)}
    sheets = [(e.path, e.window) for e in entries if isinstance(e, Scored)]
    assert len(adopted) == 2 and versions[1] < adopted[1] < versions[2]
    assert Counter(sheets) == {(path, window): 1 for path in range(4) for window in range(2)}

    record = scheduler.parts.run_store.runs[run_id(run)]
    first, second = (held.spec for held in map(record.adopted, (0, 1)) if held)
    assert second.kind == CLASS_MEANS and second.epoch == 1 and second.fit and first.fit
    assert second.fit.tokens == first.fit.tokens and second.centroids != first.centroids
    labels = scheduler.parts.blobs.read(second.fit.labels or b"", 1 << 20)  # type: ignore[arg-type]
    assert len(set(labels[::2])) == 5  # four paths, and none

    for each in volunteers:
        await until(lambda: each.parts.activity.reason.code == "run-over", seconds=60)  # noqa: B023
        jobs = each.worker.done
        assert sum(isinstance(job, Derive) for job in jobs) == 2
        for job in jobs:
            if isinstance(job, PerformLease):
                assert job.spec.epoch == run.epoch_of(work_of(job.lease).round)
                assert job.lease.spec == spec_digest(job.spec)
        derived = next(i for i, j in enumerate(jobs) if isinstance(j, Derive) and j.previous)
        assert isinstance(jobs[derived + 1], Rescore) and jobs[derived + 1].rows  # the spot check


async def test_a_late_joiner_verifies_both_epochs_from_the_ledger(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = resharding()
    scheduler = await begin(swarm, tmp_path, run)
    await swarm.start("anna")
    record = scheduler.parts.run_store.runs[run_id(run)]
    await until(lambda: record.state.epoch == 1)
    late = await swarm.start("bert")
    await until(lambda: late.parts.activity.reason.code == "run-over", seconds=6000)
    assert [type(job) for job in late.worker.done[:3]] == [Derive, Derive, Rescore]
    for entry in scheduler.parts.run_store.runs[run_id(run)].state.sheets():
        digest, length = entry.sheet.digest, 4 * entry.sheet.documents
        late.parts.blobs.remove(digest)  # as `verify --labels` finds it, and asks for it
        asked = late.reporter.fetch(run_id(run).hex(), digest.hex(), lambda done, total: None)
        assert await asked == length and late.parts.blobs.has(digest)
    said = scheduler.parts.run_store.runs[run_id(run)].said
    for spec in specs(scheduler, run):
        assert said[spec][late.parts.me] is Outcome.VERIFIED  # type: ignore[index]


async def test_a_scheduler_that_restarts_knows_again_which_sheets_agree(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = resharding(scorers=2)
    scheduler = await begin(swarm, tmp_path, run)
    await swarm.start("anna", bias=dict.fromkeys(range(4), RESHARD.tolerance))
    await swarm.start("bert", bias=dict.fromkeys(range(4), -RESHARD.tolerance))
    view = scheduler.parts.run_store.runs[run_id(run)].state
    await until(lambda: any(len(given) == 2 for given in view.scored.values()))
    await swarm.kill(scheduler)
    await trio.sleep(5.0)
    scheduler = await swarm.start(SCHEDULER)
    await until(lambda: scheduler.reporter.ledger().finished)
    entries = entries_of(scheduler.parts.run_store, run_id(run))
    assert sum(isinstance(e, Scored) for e in entries) == 8  # no third one was asked


async def test_two_machines_within_the_tolerance_agree_and_the_earlier_sheet_counts(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = resharding(scorers=2)
    scheduler = await begin(swarm, tmp_path, run)
    await swarm.start("anna", bias={0: RESHARD.tolerance})
    await swarm.start("bert", bias={0: -RESHARD.tolerance})
    await until(lambda: scheduler.reporter.ledger().finished)
    record = scheduler.parts.run_store.runs[run_id(run)]
    assert all(len(given) == 2 for given in record.state.scored.values())
    assert len({each.sheet for each in record.state.scored[0, 0]}) == 2
    assert all(
        not scheduler.parts.reputation.strikes(each.peer) for each in record.state.scored[0, 0]
    )


async def test_a_lying_scorer_is_out_voted_and_blamed(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    run = resharding(scorers=2)
    scheduler = await begin(swarm, tmp_path, run)
    lie = 2 * RESHARD.tolerance + 1
    liar = await swarm.start("anna", bias=dict.fromkeys(range(4), lie))
    for name in ("bert", "cara"):
        await swarm.start(name)
    await until(lambda: scheduler.reporter.ledger().finished)
    schedule = scheduler.parts.request_router.schedulers[run_id(run)].schedule
    assert schedule.state.scoring is not None
    lied = 0
    for (path, window), given in schedule.ledger.scored.items():
        stand = schedule.state.scoring.standing(path, window)
        refuted = {each.peer for each in schedule.state.scoring.refuted(path, window)}
        assert stand is not None and len(given) == 2 + len(refuted)
        assert refuted <= {liar.parts.me}
        sheet = stand[0].sheet
        data = scheduler.parts.blobs.read(sheet.digest, 4 * sheet.documents)
        assert read_sheet(data, sheet.documents).tolist() == scored(run, path, window)
        lied += len(refuted)
    blamed = [line for line in caplog.messages if "refuted: scores path" in line]
    assert lied and len(blamed) == lied
    # It has trained, so the scheduler knows it: no strike for a value that it made.
    assert not scheduler.parts.reputation.strikes(liar.parts.me)
    assert all(short_peer(liar.parts.me) in line for line in blamed)


async def test_scores_that_only_one_gives_are_waited_for_in_words(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    run = resharding(scorers=2)
    await begin(swarm, tmp_path, run)
    anna = await swarm.start("anna")
    await until(lambda: "is to be scored by 1 more peer" in anna.parts.activity.reason.text)
    assert max(specs(anna, run), default=b"") and len(specs(anna, run)) == 1


async def test_a_lie_that_nobody_out_voted_is_caught_by_the_spot_check(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    run = resharding()
    scheduler = await begin(swarm, tmp_path, run)
    await swarm.start("anna", bias={0: 60})
    view = scheduler.parts.run_store.runs[run_id(run)].state
    await until(lambda: view.epoch == 1)
    bert = await swarm.start("bert")
    sheets = list(view.scored)
    for target, caught in ((sheets.index((1, 0)), False), (sheets.index((0, 0)), True)):
        node = bert if not caught else await swarm.start("cara")
        check = node.parts.verifier.spot_check
        object.__setattr__(check, "below", lambda n, t=target: t if n == len(sheets) else 0)
        if not caught:
            await until(lambda: node.parts.activity.reason.code == "task")  # noqa: B023
            continue
        await node.ended.wait()
        assert isinstance(node.error, Refusal)
        assert "window 0: path 0 is claimed to score" in str(node.error)
        assert not any(trains(job) for job in node.worker.done)
        said = scheduler.parts.run_store.runs[run_id(run)].said
        assert said[view.specs[1]][node.parts.me] is Outcome.REFUTED
        liar = short_peer(view.scored[0, 0][0].peer)
        assert any(liar in line and "hung up" in line for line in caplog.messages)
