"""Runs with keepers: no single death ends one, and no line that is cut makes two of it."""

import shutil
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.runs.files import sign_manifest
from dipaco.node.runs.takeover import grant_term
from dipaco.node.scheduler.kept import KeptScheduler
from dipaco.node.scheduler.replication import Replication
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.work.keeping import MAX_AHEAD
from dipaco.protocol.work.placement import share
from tests.node.scheduler.fakes import trains
from tests.node.scheduler.kept_swarm import SECOND, KeptSwarm
from tests.node.scheduler.swarm import SCHEDULER, Swarm
from tests.values import digest, key, peer


async def test_a_run_with_keepers_goes_to_its_end(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = KeptSwarm(swarm, tmp_path)
    await kept.start_all("anna", "bert")
    await kept.until(lambda: kept.finished(SCHEDULER), seconds=2000)
    await kept.until(lambda: kept.chain("anna") == kept.chain(SCHEDULER), seconds=60)
    for name in ("kim", "ken", "kay", SECOND, "bert"):
        await kept.until(lambda: kept.chain(name) == kept.chain(SCHEDULER), seconds=60)  # noqa: B023


CALM: dict[str, list[Digest]] = {}
"""The states of a run with keepers that nobody disturbs, once there was one."""


async def undisturbed(tmp_path: Path) -> dict[str, list[Digest]]:
    """Return the states that a run ends with that nobody disturbs."""
    if CALM:
        return CALM
    async with trio.open_nursery() as nursery:
        calm = KeptSwarm(Swarm(tmp_path / "calm", nursery), tmp_path / "calm")
        await calm.start_all("zoe", "yves")
        await calm.until(lambda: calm.finished(SCHEDULER))
        nursery.cancel_scope.cancel()
    CALM.update(calm.states(SCHEDULER))
    return CALM


async def in_mid_round(kept: KeptSwarm) -> None:
    """Wait until a path trains, and another one's result waits for the outer step."""
    state = kept.nodes[SCHEDULER].parts.run_store.runs[kept.run].state
    await kept.until(lambda: state.seeded and kept.leases(SCHEDULER) > 0)
    scheduler = kept.nodes[SCHEDULER].parts.request_router.schedulers[kept.run]
    await kept.until(lambda: bool(scheduler.schedule.state.accepted))


async def started(swarm: Swarm, tmp_path: Path) -> KeptSwarm:
    """Start a run with keepers and two volunteers, and wait until it is in mid-round."""
    kept = KeptSwarm(swarm, tmp_path)
    await kept.start_all("anna", "bert")
    await in_mid_round(kept)
    return kept


async def test_a_scheduler_that_dies_in_mid_round_is_followed_by_the_other(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    final = kept.chain(SCHEDULER)
    await kept.kill(SCHEDULER)
    took = await kept.until(lambda: kept.leases(SECOND) > 0, seconds=60)
    assert took <= 30.0
    await kept.until(lambda: kept.finished(SECOND))
    assert kept.chain(SECOND)[: len(final)] == final
    trained = [job for name in ("anna", "bert") for job in kept.nodes[name].worker.done]
    assert sum(map(trains, trained)) == 1 + 2 * 4  # leases in hand went on, none was done twice
    assert kept.states(SECOND) == await undisturbed(tmp_path)


async def test_a_newcomer_joins_a_run_whose_first_scheduler_is_gone(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    swarm.ports = {SECOND: 4000}
    swarm.seeds = (Address(kind="ip4", host="127.0.0.1", port=4000, peer=peer(SECOND)),)
    kept = KeptSwarm(swarm, tmp_path)
    await kept.start_all()
    await kept.until(lambda: kept.schedules(SCHEDULER), seconds=60)
    await kept.kill(SCHEDULER)
    await kept.until(lambda: kept.schedules(SECOND), seconds=60)
    await kept.start("anna")
    await kept.until(lambda: kept.leases(SECOND) > 0, seconds=60)


async def test_a_scheduler_that_comes_back_follows_the_one_that_took_over(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    await kept.kill(SCHEDULER)
    await kept.until(lambda: kept.leases(SECOND) > 0, seconds=60)
    term = kept.term(SECOND)
    await kept.start(SCHEDULER)
    await kept.until(lambda: kept.finished(SECOND))
    assert kept.term(SECOND) == term and not kept.schedules(SCHEDULER)
    await kept.until(lambda: kept.chain(SCHEDULER) == kept.chain(SECOND), seconds=60)
    assert kept.states(SECOND) == await undisturbed(tmp_path)


async def test_a_scheduler_that_is_back_at_once_goes_on_within_five_seconds(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    held = kept.leases(SCHEDULER)
    await kept.kill(SCHEDULER)
    await kept.start(SCHEDULER)
    took = await kept.until(lambda: kept.leases(SCHEDULER) >= held, seconds=60)
    assert took <= 5.0
    await kept.until(lambda: kept.finished(SCHEDULER))
    assert kept.states(SCHEDULER) == await undisturbed(tmp_path)


async def test_one_keeper_of_three_may_die(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    await kept.kill("kim")
    await kept.until(lambda: kept.finished(SCHEDULER))
    assert kept.states(SCHEDULER) == await undisturbed(tmp_path)


async def test_a_keeper_that_lost_its_disk_is_repaired_from_the_others(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    await kept.kill("kim")
    for each in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
        (tmp_path / "kim" / each).unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "kim" / "blobs")
    await kept.start("kim")
    kim = kept.nodes["kim"].parts.keeper
    await kept.until(lambda: kept.run in kim.runs, seconds=10)
    assert kim.runs[kept.run].forgot  # it votes only once it has learned what it may have signed
    before = kept.term("ken")
    await kept.until(lambda: not kim.runs[kept.run].forgot, seconds=300)
    assert kept.term("kim") > before + MAX_AHEAD  # the others went on alone, beyond its promises
    await kept.kill("ken")
    await kept.until(lambda: kept.finished("kay"))
    await kept.until(lambda: kept.chain("kim") == kept.chain("kay"), seconds=60)
    assert kept.states("kim") == await undisturbed(tmp_path)
    state = kept.nodes["kay"].parts.run_store.runs[kept.run].state
    newest = {states[-1] for states in state.states.values()}
    keepers = tuple(map(peer, kept.keepers))
    mine = share(peer("kim"), newest, keepers, 2, keepers)
    assert mine
    has = kept.nodes["kim"].parts.blobs.has
    await kept.until(lambda: all(map(has, mine)), seconds=120)


async def test_no_outer_step_is_taken_of_results_that_no_quorum_keeps(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another scheduler would not know of them, and list other work of the same rounds."""

    async def never(*_asked: object, **_words: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Replication, "keep", never)
    kept = await started(swarm, tmp_path)
    schedule = kept.nodes[SCHEDULER].parts.request_router.schedulers[kept.run].schedule
    await kept.until(lambda: any(schedule.due_steps()))
    await trio.sleep(60)
    assert not any(map(schedule.ledger.version, schedule.ledger.states))


async def test_a_delta_that_no_keeper_brings_is_waited_for_while_one_is_away(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    scheduler = kept.nodes[SCHEDULER].parts.request_router.schedulers[kept.run]
    assert isinstance(scheduler, KeptScheduler)
    accepted = scheduler.schedule.state.accepted
    place = next(iter(accepted))
    await kept.kill("kim")
    assert not await scheduler._delta_here(place, digest("lost"), 7)
    assert place in accepted and short_peer(peer("kim")) in scheduler.lacking
    await kept.start("kim")
    await trio.sleep(10)
    await kept.until(lambda: bool(accepted))
    place = next(iter(accepted))
    assert not await scheduler._delta_here(place, digest("lost"), 7)
    assert place not in accepted and not scheduler.lacking


async def test_without_a_quorum_leases_go_on_and_nothing_closes(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    await kept.kill("kim", "ken")
    await trio.sleep(100)
    stands = kept.chain(SCHEDULER)
    reason = kept.nodes[SCHEDULER].parts.activity.of(kept.run).own_reason
    assert reason.code == "no-quorum" and short_peer(peer("kim")) in reason.text
    await trio.sleep(100)
    assert kept.chain(SCHEDULER) == stands and kept.leases(SCHEDULER) > 0
    await kept.start("kim")
    await kept.until(lambda: kept.finished(SCHEDULER))
    assert kept.states(SCHEDULER) == await undisturbed(tmp_path)


async def test_of_two_sides_that_are_cut_apart_one_goes_on_at_most(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = KeptSwarm(swarm, tmp_path)
    await kept.start_all("anna", "bert", "cara")
    await in_mid_round(kept)
    minority, majority = (SCHEDULER, "kim", "anna"), (SECOND, "ken", "kay", "bert", "cara")
    before = kept.chain(SCHEDULER)
    kept.cut(minority, majority)
    await trio.sleep(60)
    assert kept.chain(SCHEDULER)[len(before) + 1 :] == []  # what was under way may have ended
    kept.mend(minority, majority)
    await kept.until(lambda: kept.finished(SECOND))
    for name in (SCHEDULER, "kim", "anna"):
        await kept.until(lambda: kept.chain(name) == kept.chain(SECOND), seconds=120)  # noqa: B023
    assert kept.chain(SECOND)[: len(before)] == before
    assert kept.states(SECOND) == await undisturbed(tmp_path)


async def test_a_home_restored_from_an_old_copy_signs_no_second_ledger(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = KeptSwarm(swarm, tmp_path)
    await kept.start_all("anna", "bert")
    state = kept.nodes[SCHEDULER].parts.run_store.runs[kept.run].state
    await kept.until(lambda: state.seeded)
    await kept.kill(SCHEDULER)
    shutil.copytree(tmp_path / SCHEDULER, tmp_path / "copy")
    await kept.start(SCHEDULER)
    await in_mid_round(kept)
    final = kept.chain(SCHEDULER)
    await kept.kill(SCHEDULER)
    shutil.rmtree(tmp_path / SCHEDULER)
    shutil.move(tmp_path / "copy", tmp_path / SCHEDULER)
    await kept.start(SCHEDULER)
    await kept.until(lambda: kept.finished(SECOND))
    assert kept.chain(SECOND)[: len(final)] == final
    for node in kept.nodes.values():
        assert node.parts.run_store.runs[kept.run].fault is None
    assert kept.states(SECOND) == await undisturbed(tmp_path)


async def test_the_owner_lets_another_scheduler_go_on_with_a_run_without_keepers(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = KeptSwarm(swarm, tmp_path, keepers=())
    await kept.start_all("anna", "bert")
    await in_mid_round(kept)
    await kept.until(lambda: kept.chain(SECOND) == kept.chain(SCHEDULER), seconds=60)
    final = kept.chain(SCHEDULER)
    await kept.kill(SCHEDULER)
    await trio.sleep(60)
    assert not kept.schedules(SECOND)  # without keepers nobody takes over by himself
    await kept.kill(SECOND)
    run = sign_manifest(kept.manifest, key("owner"))
    grant_term(run, tmp_path / SECOND, key("owner"), term=None, me=peer(SECOND))
    await kept.start(SECOND)
    await kept.until(lambda: kept.term(SECOND) == 1, seconds=60)
    await kept.start(SCHEDULER)
    await kept.until(lambda: kept.finished(SECOND))
    assert kept.chain(SECOND)[: len(final)] == final and not kept.schedules(SCHEDULER)
    await kept.until(lambda: kept.chain(SCHEDULER) == kept.chain(SECOND), seconds=60)
    assert kept.states(SECOND) == await undisturbed(tmp_path)


async def test_a_run_whose_quorum_is_gone_for_good_goes_on_without_keepers_by_its_owners_word(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    kept = await started(swarm, tmp_path)
    await kept.kill(SCHEDULER, "kim", "ken")  # for good
    await trio.sleep(60)
    assert not kept.leases(SECOND)
    final = kept.chain(SECOND)
    await kept.kill(SECOND)
    run = sign_manifest(kept.manifest, key("owner"))
    made, _ = grant_term(
        run, tmp_path / SECOND, key("owner"), term=None, me=peer(SECOND), keepers_gone=True
    )
    await kept.start(SECOND)
    await kept.until(lambda: kept.term(SECOND) == made.term, seconds=60)
    await kept.until(lambda: kept.finished(SECOND))
    assert kept.chain(SECOND)[: len(final)] == final
    for name in ("kay", "anna"):
        await kept.until(lambda: kept.chain(name) == kept.chain(SECOND), seconds=120)  # noqa: B023
    assert kept.states(SECOND) == await undisturbed(tmp_path)
    await kept.start("kim", "ken", SCHEDULER)  # they come back all the same
    await kept.until(lambda: kept.chain(SCHEDULER) == kept.chain(SECOND), seconds=120)
    assert not kept.schedules(SCHEDULER)
