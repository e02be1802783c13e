"""States made from packed updates: as in test_swarm, whole nodes on virtual time, fake work."""

from pathlib import Path

from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.jobs.values import Advance, Derive
from dipaco.node.volunteer.inputs import Inputs, Way, way_to
from dipaco.protocol.run.manifest import Routing, run_id
from dipaco.protocol.run.topology import STEM
from dipaco.protocol.work.run_state import RunState
from tests.node.scheduler.fakes import train_leases
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_interruptions import VALUE as INTERRUPTED
from tests.node.scheduler.test_swarm import states, undisturbed
from tests.protocol.work.test_run_state import ADOPTED, SEEDED, packed, updated
from tests.values import digest, manifest

VALUE = replace(INTERRUPTED, routing=manifest().routing)
"""By one router: whoever verifies a second one scores documents, and fetches states for it."""


def advanced(node: SwarmNode) -> list[Advance]:
    return [job for job in node.worker.done if isinstance(job, Advance)]


async def test_who_holds_the_version_before_fetches_the_update_alone(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: scheduler.reporter.ledger().finished)
    modules = len(VALUE.topology.modules)
    made = [(job.module, job.state) for job in advanced(anna)]
    assert len(made) == len(set(made)) == 2 * modules  # every module once a version, from 0 on
    assert all(len(job.updates) == 1 for job in advanced(anna))
    view = anna.parts.run_store.runs[run_id(VALUE)].state
    top = view.topology
    whole = sum(top.state_bytes(m) for m in top.modules)
    assert anna.parts.exchange.received < whole  # no state came whole, and the seed is its own


async def test_the_result_does_not_depend_on_whether_states_come_whole(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    schedulers = scheduler.parts.request_router.schedulers
    await swarm.start("anna")
    await until(
        lambda: run_id(VALUE) in schedulers and schedulers[run_id(VALUE)].schedule.ledger.seeded
    )
    view = schedulers[run_id(VALUE)].schedule.ledger
    await until(lambda: view.version(STEM) == 1)
    late = await swarm.start("bert")  # holds nothing of version 0
    await until(lambda: scheduler.reporter.ledger().finished)
    trained = [lease.round for lease in train_leases(late.worker.done)]
    assert trained and min(trained) == 2
    assert states(scheduler) == await undisturbed(tmp_path, VALUE)


async def test_an_update_that_nobody_has_any_more_costs_a_whole_state_and_nothing_else(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER, forgetful=True)
    anna = await swarm.start("anna")
    await until(lambda: scheduler.reporter.ledger().finished)
    assert not advanced(anna)
    view = anna.parts.run_store.runs[run_id(VALUE)].state
    assert anna.parts.exchange.received > sum(
        2 * view.topology.state_bytes(m) for m in view.topology.modules
    )
    assert states(scheduler) == await undisturbed(tmp_path, VALUE)


async def test_states_are_brought_ahead_of_the_lease_one_at_a_time(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, VALUE)
    scheduler = await swarm.start(SCHEDULER)
    await swarm.start("anna")
    await until(lambda: scheduler.reporter.ledger().finished)
    parts = (await swarm.start("bert")).parts
    await until(lambda: parts.activity.reason.code == "run-over")
    record, worker = parts.run_store.runs[run_id(VALUE)], scheduler.worker
    inputs = Inputs(record, parts.run_store, parts.blobs, parts.exchange, parts.finder, worker)
    newest = {m: states[-1] for m, states in record.state.states.items()}
    own = set(record.state.topology.path_modules[0])
    for count in range(1, len(own) + 1):
        assert await inputs.ahead(0)
        assert sum(parts.blobs.has(digest) for digest in newest.values()) == count
    assert not await inputs.ahead(0)
    assert {m for m, digest in newest.items() if parts.blobs.has(digest)} == own


async def test_the_tokenizer_is_fetched_where_no_derivation_needs_it(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    value = manifest(routing=Routing(kind="round_robin", sample=128, dimension=64))
    found(tmp_path, value)
    scheduler = await swarm.start(SCHEDULER)
    await until(lambda: scheduler.parts.activity.verdict == "verified")
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.sums.now().accepted > 0)
    assert not [job for job in anna.worker.done if isinstance(job, Derive)]
    assert anna.parts.blobs.has(value.tokenizer.sha256)


async def test_the_tokenizer_is_fetched_again_when_the_verdict_is_remembered(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.activity.sums.now().accepted > 1)
    await swarm.kill(anna)
    anna.parts.blobs.remove(manifest().tokenizer.sha256)
    again, before = await swarm.start("anna"), anna.parts.activity.sums.now().accepted
    await until(lambda: again.parts.activity.sums.now().accepted > before)
    assert not [job for job in again.worker.done if isinstance(job, Derive)]
    assert again.worker.begun_windows == [0]


def test_the_shortest_way_is_taken() -> None:
    view = RunState(replace(manifest(), training=VALUE.training))
    for entry in (ADOPTED, SEEDED, packed(updated("stem", 1)), packed(updated("stem", 2))):
        view.apply(entry)
    one, two = digest("update stem 1"), digest("update stem 2")
    held = {digest("stem 0")}
    assert way_to(view, STEM, 2, held.__contains__) == Way(digest("stem 0"), (one, two))
    held.add(digest("stem 1"))
    assert way_to(view, STEM, 2, held.__contains__) == Way(digest("stem 1"), (two,))
    assert way_to(view, STEM, 0, held.__contains__) is None
    assert way_to(view, STEM, 2, {digest("other")}.__contains__) is None
