"""A second run on the network of the first, by a stranger: it stops and moves nobody.

Rules of this file: whole nodes over the transport in memory, virtual time, fake work.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.roles.offers import AWAY_SECONDS
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.runs.signers import FILE, pinned_signers
from dipaco.node.runs.strangers import MAX_OF_OWNER
from dipaco.protocol.errors import Refusal
from dipaco.protocol.run.invitation import Invitation
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.identity import fingerprint, fingerprint_bytes
from dipaco.protocol.wire.signed import sign
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found, until
from tests.node.scheduler.test_choosing import AA, BB, SHORT, of, runs_of, text, trained
from tests.values import key, peer


def mallorys(name: str, seed: int = 0) -> Manifest:
    return replace(of(name, "mallory", seed), owner=peer("mallory"))


async def mallory_joins(
    swarm: Swarm, seed: SwarmNode, *runs: Manifest, founds: bool = True
) -> SwarmNode:
    """Start a stranger that offers `runs`, of which the seed hears; `founds`: it schedules them."""
    node = await swarm.start("mallory", founds=founds, bootstrap=seed, run=("none",))
    for run in runs:
        node.parts.run_store.publish("manifest", sign(run, key("mallory")))
    await until(lambda: any(run_id(run) in seed.parts.run_store.runs for run in runs), seconds=120)
    return node


def joined(node: SwarmNode) -> str:
    status = node.reporter.status().run
    return status.id if status else ""


def huge() -> Manifest:
    """Return a run of 1,024 paths, the most."""
    plain = mallorys("huge")
    levels = tuple(replace(level, experts=32) for level in plain.grid.levels)
    routing = replace(plain.routing, sample=1024)
    return replace(plain, grid=replace(plain.grid, levels=levels), routing=routing)


HOSTILE: dict[str, Callable[[], list[Manifest]]] = {
    "the same name": lambda: [mallorys("aa", seed=7)],
    "many runs": lambda: [mallorys(f"run{number}") for number in range(48)],
    "the most paths": lambda: [huge()],
    "a run of one round": lambda: [replace(mallorys("short"), training=SHORT.training)],
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_strangers_runs_change_nothing_for_those_who_work_for_the_seeds(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    found(tmp_path, SHORT)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await trained(anna)
    runs = HOSTILE[how]()
    mallory = await mallory_joins(swarm, scheduler, *runs, founds=len(runs) == 1)
    await swarm.kill(anna)
    again, fresh = await swarm.start("anna"), await swarm.start("fresh")
    await until(lambda: scheduler.reporter.ledger().finished)
    for node in (scheduler, again, fresh):
        assert node.error is None and runs_of(node) <= {"aa"}
        strangers = [run for run in node.parts.run_store.runs if run != run_id(SHORT)]
        assert len(strangers) <= MAX_OF_OWNER
        assert all(node.parts.run_store.length(run) == 0 for run in strangers)
        assert node.parts.reputation.strikes(mallory.parts.me) == 0
    assert joined(fresh) == joined(again) == run_id(SHORT).hex()


async def test_a_stranger_who_comes_and_goes_moves_nobody(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, SHORT)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    keep_run(tmp_path / "mallory", sign_manifest(mallorys("other"), key("mallory")))
    for _ in range(5):
        mallory = await swarm.start("mallory", founds=True, bootstrap=scheduler)
        await trio.sleep(5)
        await swarm.kill(mallory)
    await until(lambda: scheduler.reporter.ledger().finished)
    assert runs_of(anna) == {"aa"} and anna.error is None


async def test_the_signer_of_a_name_is_pinned_and_another_needs_a_persons_word(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna")
    await trained(anna)
    home = tmp_path / "anna"
    assert pinned_signers(home) == {"aa": peer("owner")}
    assert (home / FILE).stat().st_mode & 0o777 == 0o600
    await swarm.kill(anna)
    await swarm.kill(scheduler)
    namesake = mallorys("aa", seed=7)
    (home / "journal.sqlite").unlink()  # nothing but the pin tells the two apart
    (home / "last-run").unlink()
    directory = await swarm.start("directory", founds=True)
    await mallory_joins(swarm, directory, namesake)
    again = await swarm.start("anna", bootstrap=directory, run=("aa",))
    await until(lambda: again.parts.activity.reason.code == "other-signer", seconds=60)
    for signer in (peer("owner"), peer("mallory")):
        assert fingerprint(signer) in text(again)
    assert f"--signer {peer('mallory')}" in text(again) and "signers.toml" in text(again)
    await trio.sleep(2 * AWAY_SECONDS)
    assert joined(again) == "" and again.worker.done == []
    await swarm.kill(again)
    told = await swarm.start("anna", bootstrap=directory, run=(run_id(namesake).hex(),))
    await until(lambda: joined(told) == run_id(namesake).hex(), seconds=60)
    assert pinned_signers(home) == {"aa": peer("mallory")}


async def test_with_signer_only_that_owners_runs_are_chosen(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    await mallory_joins(swarm, scheduler, mallorys("other"))
    fresh = await swarm.start("fresh", signers=(peer("mallory"),))
    await until(lambda: joined(fresh) == run_id(mallorys("other")).hex(), seconds=60)


def invitation(run: Manifest, seed: SwarmNode) -> str:
    address = seed.parts.transport.addresses[0]
    return Invitation((address,), run_id(run)[:4], fingerprint_bytes(run.owner)).code


async def test_an_invitation_leads_to_its_run_alone_and_refuses_another_signer_of_a_known_name(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    found(tmp_path, AA)
    scheduler = await swarm.start(SCHEDULER)
    namesake = mallorys("aa", seed=7)
    await mallory_joins(swarm, scheduler, namesake)
    fresh = await swarm.start("fresh", invitation=invitation(namesake, scheduler))
    await until(lambda: joined(fresh) == run_id(namesake).hex(), seconds=60)
    anna = await swarm.start("anna", invitation=invitation(AA, scheduler))
    await trained(anna)
    assert joined(anna) == run_id(AA).hex()
    await swarm.kill(anna)
    again = await swarm.start("anna", invitation=invitation(namesake, scheduler))
    with trio.fail_after(60):
        await again.ended.wait()
    assert isinstance(again.error, Refusal) and "signers.toml" in str(again.error)


async def test_a_newcomer_does_not_join_a_run_whose_scheduler_left(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    directory = await swarm.start(SCHEDULER)
    found(tmp_path, BB, "founder")
    founder = await swarm.start("founder", founds=True, bootstrap=directory)
    await until(lambda: run_id(BB) in directory.parts.run_store.runs)
    await swarm.kill(founder)
    fresh = await swarm.start("fresh", bootstrap=directory)
    await until(lambda: fresh.parts.activity.reason.code == "run-away", seconds=60)
    other = of("cc", "other")
    found(tmp_path, other, "other")
    await swarm.start("other", founds=True, bootstrap=directory)
    await until(lambda: joined(fresh) == run_id(other).hex(), seconds=2 * AWAY_SECONDS)


async def test_a_strangers_run_takes_no_node_from_its_own_whose_scheduler_is_away(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock
) -> None:
    directory = await swarm.start(SCHEDULER)
    found(tmp_path, BB, "founder")
    founder = await swarm.start("founder", founds=True, bootstrap=directory)
    anna = await swarm.start("anna", bootstrap=directory)
    await trained(anna)
    await swarm.kill(founder)
    await swarm.kill(anna)
    await mallory_joins(swarm, directory, mallorys("other"))
    again = await swarm.start("anna", bootstrap=directory)
    await trio.sleep(3 * AWAY_SECONDS)
    assert joined(again) == run_id(BB).hex()
    await swarm.start("founder", founds=True, bootstrap=directory)
    await trained(again)
