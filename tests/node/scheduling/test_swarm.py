"""Whole nodes over the transport in memory: virtual time, real journals and blobs, fake work."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from dipaco.node.config import NodeConfig, NodeSection, RunSection
from dipaco.node.daemon import run_node
from dipaco.node.network.memory import MemoryNetwork
from dipaco.node.overview import Overview
from dipaco.node.runs import keep_run, sign_manifest
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.training.jobs import Derive, Failed, Train
from dipaco.node.wiring import Parts, overview_of, wire
from dipaco.protocol.errors import DipacoError, Refusal, Unverifiable
from dipaco.protocol.ledger import SpecAdopted
from dipaco.protocol.manifest import Manifest, run_id
from dipaco.protocol.signed import sign
from dipaco.protocol.spec import RouterSpec, spec_digest
from tests.node.scheduling.fakes import FakeWorker, derived
from tests.values import TOKENIZER, key, manifest, peer

SCHEDULER = "scheduler"
RUN = run_id(manifest())


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """Do disk work on the loop: the virtual clock does not see threads."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@dataclass
class Node:
    """A node that runs, and the means to end it."""

    parts: Parts
    overview: Overview
    worker: FakeWorker
    stop: trio.Event
    scope: trio.CancelScope
    ended: trio.Event
    error: BaseException | None = None


class Swarm:
    """Nodes by name on one network; each keeps its home over restarts."""

    def __init__(self, tmp_path: Path, nursery: trio.Nursery) -> None:
        self.network = MemoryNetwork()
        self._homes = tmp_path
        self._nursery = nursery
        self._address = ""

    async def start(self, name: str, *, verify: str = "require", **worker: Any) -> Node:
        """Start the node called `name`; the first one is the scheduler."""
        return await self._nursery.start(self._live, name, verify, worker)

    async def _live(
        self, name: str, verify: str, settings: dict[str, Any], *, task_status: Any
    ) -> None:
        rendezvous = name == SCHEDULER
        home = Home.at(self._homes / name)
        config = NodeConfig(
            home=home.root,
            node=NodeSection(
                rendezvous=rendezvous, bootstrap=() if rendezvous else (self._address,)
            ),
            run=RunSection(verify=verify),
        )
        worker = FakeWorker(BlobStore(home.blobs), **settings)
        if rendezvous:
            worker.blobs.write(TOKENIZER)  # the volunteers fetch it
        ended, stop = trio.Event(), trio.Event()
        with contextlib.closing(Journal.open(home.journal)) as journal, trio.CancelScope() as scope:
            async with self.network.join(
                peer(name), port=4000 if rendezvous else None
            ) as transport:
                self._address = self._address or transport.addresses[0]
                parts = wire(config, home, key(name), journal, worker, transport, in_thread=at_once)
                overview = overview_of(parts, leave=stop.set)
                node = Node(parts, overview, worker, stop, scope, ended)
                ready = partial(task_status.started, node)
                try:
                    await run_node(parts, overview, stop, ready=ready)
                except* DipacoError as group:  # anything else is a bug, and fails the test
                    node.error = leaf(group)
        ended.set()

    async def kill(self, node: Node) -> None:
        """End a node as SIGKILL does: no goodbye."""
        self.network.kill(node.parts.me)
        node.scope.cancel()
        await node.ended.wait()


def leaf(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def until(condition: Callable[[], bool], *, seconds: float = 3600.0) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.5)


@pytest.fixture
async def swarm(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    async with trio.open_nursery() as nursery:
        yield Swarm(tmp_path, nursery)
        nursery.cancel_scope.cancel()


def found(swarm_home: Path, run: Manifest) -> None:
    """Put the run into the scheduler's home, as `start --run FILE` does."""
    keep_run(swarm_home / SCHEDULER, sign_manifest(run, key("owner")))


async def run_to_end(swarm: Swarm, names: tuple[str, ...]) -> Node:
    scheduler = await swarm.start(SCHEDULER)
    for name in names:
        await swarm.start(name)
    await until(lambda: scheduler.overview.ledger().finished)
    return scheduler


async def undisturbed(tmp_path: Path) -> dict[str, list[str]]:
    """Return the states that the run ends with when one volunteer does all the work."""
    async with trio.open_nursery() as nursery:
        alone = Swarm(tmp_path / "alone", nursery)
        found(tmp_path / "alone", manifest())
        scheduler = await run_to_end(alone, ("zoe",))
        nursery.cancel_scope.cancel()
    return states(scheduler)


def states(node: Node) -> dict[str, list[str]]:
    view = node.overview.ledger()
    return {module: list(by_version.values()) for module, by_version in view.states.items()}


async def test_a_run_goes_from_the_seed_to_the_last_evaluation(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    volunteers = [await swarm.start(name) for name in ("anna", "bert", "cara", "dora")]
    await until(lambda: scheduler.overview.ledger().finished)
    ledger = scheduler.overview.ledger()
    assert set(ledger.versions.values()) == {2}
    assert len(ledger.evaluations) == 3 * 4
    status = scheduler.overview.status()
    assert status.run and status.run.finished and {p.state for p in status.swarm} == {"done"}

    await until(lambda: all(v.overview.ledger() == ledger for v in volunteers), seconds=60)
    for each in volunteers:
        assert each.overview.status().run.verdict == "verified"  # type: ignore[union-attr]
        assert isinstance(each.worker.done[0], Derive)  # verified before anything else
        await until(lambda: each.parts.board.reason.code == "run-over", seconds=60)  # noqa: B023
    trained = sum(isinstance(job, Train) for v in volunteers for job in v.worker.done)
    assert trained == 1 + 2 * 4  # the seed, and every path once a round


async def test_the_result_does_not_depend_on_who_works_nor_on_a_kill(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    victims = [await swarm.start(name) for name in ("anna", "bert")]
    await swarm.start("cara")
    for victim in victims:
        await until(lambda: victim.parts.board.reason.code == "task")  # noqa: B023
        before = trio.current_time()
        holder = victim.parts.me
        await swarm.kill(victim)
        grants = scheduler.parts.desk.schedulers[RUN].schedule.grants
        await until(lambda: all(g.peer != holder for g in grants.values()))  # noqa: B023
        assert trio.current_time() - before <= 3.0  # a closed socket needs no time to live
    await until(lambda: scheduler.overview.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)


async def test_a_frozen_volunteer_loses_its_lease_and_stops_nobody(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    frozen = await swarm.start("anna")
    await until(lambda: frozen.parts.board.reason.code == "seed")
    swarm.network.freeze(frozen.parts.me)
    before = trio.current_time()
    other = await swarm.start("bert")
    grants = scheduler.parts.desk.schedulers[RUN].schedule.grants
    await until(lambda: any(g.peer == other.parts.me for g in grants.values()))
    assert trio.current_time() - before <= manifest().schedule.lease_ttl + 3.0
    await trio.sleep(30.0)
    swarm.network.thaw(frozen.parts.me)
    await until(lambda: scheduler.overview.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)
    assert frozen.error is None


async def test_a_scheduler_that_restarts_goes_on_where_it_was(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna, bert = [await swarm.start(name) for name in ("anna", "bert")]
    await until(lambda: anna.parts.board.reason.code == "task")
    await swarm.kill(scheduler)
    await trio.sleep(10.0)
    scheduler = await swarm.start(SCHEDULER)
    await until(lambda: scheduler.overview.ledger().finished)
    assert states(scheduler) == await undisturbed(tmp_path)
    assert not any(isinstance(job, Derive) for job in scheduler.worker.done)  # it is remembered
    trained = [job for v in (anna, bert) for job in v.worker.done if isinstance(job, Train)]
    assert len(trained) == 1 + 2 * 4  # leases in hand went on, none was done twice


async def test_a_late_joiner_gets_everything_and_a_restarted_node_verifies_no_second_time(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await run_to_end(swarm, ("anna",))
    late = await swarm.start("bert")
    await until(lambda: late.overview.ledger() == scheduler.overview.ledger(), seconds=60)
    await until(lambda: late.parts.board.reason.code == "run-over", seconds=120)
    await swarm.kill(late)
    again = await swarm.start("bert")
    await until(lambda: again.parts.board.reason.code == "run-over", seconds=60)
    assert again.worker.done == []
    assert again.overview.status().run.verdict == "verified"  # type: ignore[union-attr]


async def test_a_node_that_is_stopped_hands_its_lease_back(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.board.reason.code == "seed")
    grants = scheduler.parts.desk.schedulers[RUN].schedule.grants
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
    await until(lambda: anna.parts.board.reason.code == "failures")
    await until(lambda: "5 in a row" in anna.parts.board.reason.text)
    assert anna.parts.board.state == "paused"
    await until(lambda: scheduler.overview.ledger().finished)


async def test_a_submission_that_does_not_pass_inspection_never_counts(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER, wrong="stem: holds a NaN")
    anna = await swarm.start("anna")
    await until(lambda: anna.parts.board.refused > 0 or anna.parts.board.accepted > 0, seconds=600)
    assert anna.parts.board.accepted == 0
    assert not scheduler.parts.catalogue.runs[RUN].view.seeded
    assert scheduler.parts.standing.strikes(anna.parts.me) == 1


# ---------------------------------------------------------------------- verification


async def publish(scheduler: Node, spec: RouterSpec) -> None:
    """Have the scheduler publish and adopt `spec`, whatever it is."""
    parts = scheduler.parts
    parts.catalogue.publish("spec", sign(spec, parts.key))
    parts.catalogue.append(RUN, SpecAdopted(epoch=0, spec=spec_digest(spec)), parts.key)


async def test_a_node_refuses_a_spec_that_another_source_gives_and_tells_its_peers(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER, shift=1)  # a scheduler whose source was tampered with
    anna = await swarm.start("anna")
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal) and not isinstance(anna.error, Unverifiable)
    assert "source-bytes" in str(anna.error)
    assert anna.parts.board.state == "refused"
    assert not any(isinstance(job, Train) for job in anna.worker.done)
    assert anna.parts.standing.strikes(scheduler.parts.me) == 1


async def test_a_refusal_is_remembered_over_a_restart(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    await swarm.start(SCHEDULER, shift=1)
    first = await swarm.start("anna")
    await first.ended.wait()
    again = await swarm.start("anna")
    await again.ended.wait()
    assert isinstance(again.error, Refusal) and again.worker.done == []


async def test_what_cannot_be_verified_is_not_trained_under_require_and_is_under_warn(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, manifest())
    scheduler = await swarm.start(SCHEDULER)
    strict = await swarm.start("anna", shift=1, authenticated=False)
    await strict.ended.wait()
    assert isinstance(strict.error, Unverifiable) and "source-differs" in str(strict.error)
    await swarm.start("bert", verify="warn", shift=1, authenticated=False)
    await until(lambda: scheduler.overview.ledger().finished)


SPEC = derived(manifest())


def mutations() -> list[tuple[str, RouterSpec]]:
    """Every field of the spec, nested ones too, changed alone to another valid value."""
    changed: list[tuple[str, RouterSpec]] = []  # `manifest` is left out: a spec of another run
    assert SPEC.fit is not None
    for name, owner in [
        (n, SPEC) for n in SPEC.__struct_fields__ if n not in ("fit", "manifest")
    ] + [(n, SPEC.fit) for n in SPEC.fit.__struct_fields__]:
        value = getattr(owner, name)
        other: Any
        if isinstance(value, bytes):
            other = bytes([value[0] ^ 1]) + value[1:]
        elif isinstance(value, tuple):
            other = (value[0] + 1, value[1] - 1, *value[2:])
        elif isinstance(value, str):
            other = "other" if name != "kind" else "round_robin"
        else:
            other = value + (8 if name == "dimension" else 1)
        new: Any = msgspec.structs.replace(owner, **{name: other})
        spec: RouterSpec = new if owner is SPEC else msgspec.structs.replace(SPEC, fit=new)
        changed.append((f"fit.{name}" if owner is SPEC.fit else name, spec))
    return changed


@pytest.mark.parametrize(("field", "tampered"), mutations(), ids=[m[0] for m in mutations()])
async def test_a_spec_with_any_one_field_changed_is_never_trained(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, field: str, tampered: RouterSpec
) -> None:
    scheduler = await swarm.start(SCHEDULER)
    run = sign(manifest(), key("owner"))
    scheduler.parts.catalogue.publish("manifest", run)
    await publish(scheduler, tampered)
    anna = await swarm.start("anna")
    await anna.ended.wait()
    assert isinstance(anna.error, Refusal)
    assert not any(isinstance(job, Train) for job in anna.worker.done)
    assert anna.parts.board.verdict in ("refuted", "unverifiable")
