"""Which run a node works for, when several are on the network.

Rules of this file: whole nodes over the transport in memory, virtual time, fake work.
"""

from collections.abc import Callable
from pathlib import Path

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import Answer, Derive, DerivedAnswer, Job, Progress
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import Unverifiable
from dipaco.protocol.routing.verdict import SourceFailure
from dipaco.protocol.run.manifest import Manifest, Scheduling, run_id
from dipaco.protocol.wire.digest import short
from tests.node.scheduler.fakes import FakeWorker, trains
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.values import key, manifest, peer

AA = manifest(name="aa")
SHORT = replace(AA, training=replace(AA.training, rounds=1))
LATER = manifest(name="later")


def of(name: str, scheduler: str, seed: int = 0) -> Manifest:
    return manifest(
        name=name, seed=seed, schedule=Scheduling(schedulers=(peer(scheduler),), members=())
    )


BB = of("bb", "founder")


def runs_of(node: SwarmNode) -> set[str]:
    """Return the names of the runs that a node has done any work for."""
    return {job.manifest.name for job in node.worker.done}


def text(node: SwarmNode) -> str:
    return f"{node.reporter.status().reason.code}: {node.reporter.status().reason.text}"


async def trained(node: SwarmNode) -> None:
    await until(lambda: any(map(trains, node.worker.done)))


async def second_founder(
    swarm: Swarm, tmp_path: Path, first: SwarmNode, run: Manifest = BB
) -> SwarmNode:
    """Start a founder of another run that joins the network of the first."""
    found(tmp_path, run, "founder")
    founder = await swarm.start("founder", founds=True, bootstrap=first)
    await until(lambda: run_id(run) in first.parts.run_store.runs)
    return founder


async def test_the_run_of_a_founder_that_joined_and_went_moves_nobody_from_the_seeds_run(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await trained(anna)
    await swarm.kill(await second_founder(swarm, tmp_path, scheduler))
    done = len(anna.worker.done)
    await swarm.kill(anna)
    fresh, again = await swarm.start("fresh"), await swarm.start("anna")
    for node in (fresh, again):
        await until(lambda: node.parts.activity.state == "training", seconds=30)  # noqa: B023
        assert run_id(BB) in node.parts.run_store.runs
        assert runs_of(node) <= {"aa"}
    assert done > 0 and not any(isinstance(job, Derive) for job in again.worker.done)
    await trained(fresh)


async def test_several_runs_of_the_seed_are_never_chosen_from_silently(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await trained(anna)
    await swarm.kill(scheduler)
    await swarm.kill(anna)
    found(tmp_path, LATER)
    await swarm.start(SCHEDULER)
    fresh, again = await swarm.start("fresh"), await swarm.start("anna")
    await until(lambda: again.parts.activity.state == "training", seconds=60)
    await until(lambda: fresh.parts.activity.reason.code == "several-runs", seconds=10)
    for run in (AA, LATER):
        assert f"{run.name} {short(run_id(run))} (its scheduler is connected)" in text(fresh)
    await trio.sleep(60)
    assert fresh.worker.done == []
    assert runs_of(again) == {"aa"}


async def test_a_seed_without_a_run_hands_on_several_and_tells_which_scheduler_is_away(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    directory = await swarm.start(SCHEDULER)
    for name, run in (("founder", BB), ("other", of("cc", "other"))):
        found(tmp_path, run, name)
        founder = await swarm.start(name, founds=True, bootstrap=directory)
        await until(lambda: run_id(run) in directory.parts.run_store.runs)  # noqa: B023
    await swarm.kill(founder)
    fresh = await swarm.start("fresh", bootstrap=directory)
    await until(lambda: "bb" in text(fresh) and "is connected" in text(fresh), seconds=30)
    assert "several-runs: " in text(fresh)
    assert f"bb {short(run_id(BB))} (its scheduler is connected)" in text(fresh)
    assert f"cc {short(run_id(of('cc', 'other')))} (its scheduler is away)" in text(fresh)
    assert text(fresh).endswith("name one with --run")
    by_name = {offer.name: offer.answers for offer in fresh.reporter.status().offers}
    assert by_name == {"bb": True, "cc": False}


async def test_a_strangers_manifest_that_names_the_seed_gives_it_no_work_and_stops_nobody(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    forged = of("forged", SCHEDULER)
    keep_run(tmp_path / "mallory", sign_manifest(forged, key("owner")))
    mallory = await swarm.start("mallory", run=(run_id(forged).hex(),))
    await until(lambda: scheduler.parts.transport.peers() >= {mallory.parts.me})
    fresh = await swarm.start("fresh")
    await until(lambda: run_id(forged) in fresh.parts.run_store.runs)
    await trained(fresh)
    assert runs_of(fresh) == {"aa"}
    assert runs_of(scheduler) == {"aa"}
    assert run_id(forged) not in scheduler.parts.run_store.runs
    assert scheduler.error is None and scheduler.parts.reputation.strikes(mallory.parts.me) == 0


async def test_a_name_that_nobody_offers_is_told_with_what_is_on_offer(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    await swarm.start(SCHEDULER)
    anna = await swarm.start("anna", run=("nosuch",))
    await until(lambda: "nosuch" in text(anna), seconds=10)
    assert text(anna).startswith(f"not-on-offer: no run nosuch; on offer: aa {short(run_id(AA))}")
    assert anna.parts.activity.state == "choosing"


async def test_a_name_that_two_runs_have_is_told_with_their_ids(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    namesake = of("aa", "founder", seed=7)
    await second_founder(swarm, tmp_path, scheduler, namesake)
    anna = await swarm.start("anna", run=("aa",))
    await until(lambda: anna.parts.activity.reason.code == "several-runs", seconds=10)
    for run in (AA, namesake):
        assert short(run_id(run)) in text(anna)
    bert = await swarm.start("bert", run=(run_id(namesake).hex()[:12],))
    await until(lambda: bert.reporter.status().run is not None, seconds=10)
    assert bert.reporter.status().run.id == run_id(namesake).hex()  # type: ignore[union-attr]


async def test_a_seed_is_waited_for_before_a_run_of_others_is_chosen(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    founder = await second_founder(swarm, tmp_path, scheduler)
    swarm.network.freeze(scheduler.parts.me)
    await swarm.start("bert", bootstrap=founder, run=("bb",))
    fresh = await swarm.start("fresh", bootstrap=scheduler)
    keep_run(tmp_path / "fresh", sign_manifest(BB, key("owner")))
    await trio.sleep(5)
    await fresh.parts.transport.dial(founder.parts.me, founder.parts.transport.addresses)
    await until(lambda: run_id(BB) in fresh.parts.run_store.runs, seconds=60)
    await trio.sleep(60)
    assert text(fresh).startswith("seed-silent") and fresh.worker.done == []
    swarm.network.thaw(scheduler.parts.me)
    await trained(fresh)
    assert runs_of(fresh) == {"aa"}


async def test_a_run_that_is_over_names_the_next_and_is_left_only_for_one_that_is_listed(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, SHORT)
    found(tmp_path, LATER)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna", run=("aa",))
    bert = await swarm.start("bert", run=("aa", "later"))
    await until(lambda: anna.parts.activity.reason.code == "run-over")
    await until(lambda: "others on offer" in text(anna), seconds=60)
    assert f"later {short(run_id(LATER))}" in text(anna) and "--run" in text(anna)
    await until(lambda: "later" in runs_of(bert))
    assert runs_of(anna) == {"aa"}
    await swarm.kill(anna)
    again = await swarm.start("anna")  # the home worked for a run that is over: it is not left
    await until(lambda: again.parts.activity.reason.code == "run-over", seconds=60)
    told = await swarm.start("fresh", run=("later",))
    await until(lambda: runs_of(told) == {"later"})
    assert scheduler.parts.activity.state != "stopping" and again.worker.done == []


class DerivesAllBut(FakeWorker):
    """Can never derive the router of the run `later`."""

    async def _answer(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        if isinstance(job, Derive) and job.manifest.name == "later":
            failure = SourceFailure(stage="source", reason="no such kind", lasting=True)
            return DerivedAnswer(derivation=failure)
        return await super()._answer(job, on_progress)


def deriving_all_but_later(home: Home) -> DerivesAllBut:
    return DerivesAllBut(BlobStore(home.blobs))


async def test_of_several_runs_that_are_scheduled_one_that_fails_does_not_end_the_others(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, SHORT)
    found(tmp_path, LATER)
    (tmp_path / SCHEDULER / "runs" / "torn.run").write_bytes(b"half a file")
    scheduler = await swarm.start(SCHEDULER, worker=deriving_all_but_later)
    anna = await swarm.start("anna", run=("aa",))
    await trained(anna)
    status = scheduler.reporter.status()
    blocks = {each.name: each for each in status.runs}
    assert blocks["later"].state == "refused" and "no such kind" in blocks["later"].reason.text
    assert [each.name for each in status.runs] == ["aa", "later"]  # the busiest first
    assert blocks["aa"].state == "serving" and "leased" in {p.state for p in blocks["aa"].swarm}
    assert status.run and status.run.name == "aa" and status.state == "serving"
    assert status.reason.text.startswith("aa: round ")
    await until(lambda: anna.parts.activity.reason.code == "run-over")
    assert scheduler.error is None


async def test_a_rendezvous_node_whose_only_run_fails_serves_on_and_says_so_after_a_restart_too(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, LATER)
    for _ in range(2):
        scheduler = await swarm.start(SCHEDULER, worker=deriving_all_but_later)
        await until(lambda s=scheduler: s.parts.activity.reason.code == "not-scheduled")  # type: ignore[misc]
        anna = await swarm.start("anna", run=("later",))
        await until(lambda a=anna: a.parts.transport.peers())  # type: ignore[misc]
        await trio.sleep(60)
        assert not scheduler.ended.is_set() and not anna.ended.is_set()
        assert "no such kind" in scheduler.reporter.status().reason.text
        await swarm.kill(anna)
        await swarm.kill(scheduler)


async def test_a_run_that_is_refused_is_left_for_the_next_one_that_is_listed(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    found(tmp_path, LATER)
    await swarm.start(SCHEDULER)
    bert = await swarm.start("bert", run=("later", "aa"), worker=deriving_all_but_later)
    only = await swarm.start("only", run=("later",), worker=deriving_all_but_later)
    await trained(bert)
    assert bert.reporter.status().run.name == "aa"  # type: ignore[union-attr]
    assert isinstance(only.error, Unverifiable)
