"""Rules of this file: every node is a real process; the fields are found by reflection.
All are forked from one process that has imported the program, and all join one network. Every
field, by nodes within one process: tests/node/scheduling/test_verification.py."""

import sys
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from dipaco.cli.exits import Exit
from dipaco.cli.testnet.processes import LocalSwarm
from dipaco.node.runs.files import RunFile
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Derived, Outcome, Verdict, judge
from tests.e2e.tampered import derived, peer_of, prepare_home, said, tiny_run
from tests.e2e.tiny import LOOPBACK, TIMEOUT
from tests.protocol.routing.mutations import mutations

STAGES = {
    *("unknown-kind", "no-fit", "static"),
    *("source-bytes", "tokens", "idf", "basis", "features", "centroids", "counts"),
}
CODES = {Outcome.REFUTED: Exit.REFUSED, Outcome.UNVERIFIABLE: Exit.UNVERIFIABLE}


def tampered(spec: RouterSpec, run: RunFile) -> dict[str, RouterSpec]:
    """Return specs with one field changed, under its name: one field for every way to be found out.

    `manifest` is not among them: with it changed, it is the spec of another run.
    """
    found: dict[tuple[str, str], tuple[str, RouterSpec]] = {}
    recipe, ours = recipe_of(run.manifest), Derived(spec=spec, authenticated=True)
    for field, changed in mutations(spec, unfitted_spec(recipe)):
        verdict = judge(recipe, changed, ours)
        taken = {name for name, _ in found.values()}
        if field != "manifest" and field not in taken:
            found.setdefault((verdict.outcome, verdict.stage), (field, changed))
    return dict(found.values())


async def fates(root: Path, runs: dict[str, RunFile]) -> dict[str, int]:
    """Let a node of its own join each run of the network that `root`/relay serves."""
    swarm = LocalSwarm({"DIPACO_COMPUTE_THREADS": "1"})
    async with trio.open_nursery() as nursery:
        try:
            relay = await swarm.start(nursery, "relay", root / "relay", ("--rendezvous", *LOOPBACK))
            await swarm.wait_ready(relay)
            address = (await swarm.statuses())["relay"].network.listen[0]
            forks = [sys.executable, "-m", "tests.e2e.forks", str(root), "--bootstrap", address]
            wanted = "".join(f"{name} {run.id.hex()}\n" for name, run in runs.items())
            ended = await trio.run_process(
                [*forks, *LOOPBACK], stdin=wanted.encode(), capture_stdout=True
            )
            assert relay.running
        finally:
            await swarm.close()
    return {name: int(code) for name, code in map(str.split, ended.stdout.decode().splitlines())}


async def test_a_node_refuses_a_router_of_which_a_field_was_changed_at_any_stage(
    tmp_path: Path,
) -> None:
    honest = tiny_run(tmp_path, "honest")
    truth = derived(honest, tmp_path / "own")
    changed = tampered(truth, honest)
    runs = {field: tiny_run(tmp_path, field) for field in changed}
    specs = {field: replace(changed[field], manifest=run.id) for field, run in runs.items()}
    prepare_home(
        tmp_path / "relay",
        [(run, specs[field]) for field, run in runs.items()],
        owner=Ed25519PrivateKey.generate(),  # it passes on what it has, and schedules nothing
    )
    expected: dict[str, Verdict] = {}
    for field, run in runs.items():
        ours = Derived(spec=replace(truth, manifest=run.id), authenticated=True)
        expected[field] = judge(recipe_of(run.manifest), specs[field], ours)
    assert {verdict.stage for verdict in expected.values()} == STAGES
    with trio.fail_after(TIMEOUT):
        codes = await fates(tmp_path, runs)
    assert codes == {field: CODES[verdict.outcome] for field, verdict in expected.items()}
    journal = Journal.open(Home.at(tmp_path / "relay").journal)
    known = RunStore(journal).runs
    journal.close()
    for field, verdict in expected.items():
        lines = said(tmp_path / field)
        assert sum("state deriving" in line for line in lines) <= 1, lines
        assert any(f"{verdict.outcome.upper()} ({verdict.stage})" in line for line in lines), lines
        assert not any("Traceback" in line or " task " in line for line in lines), lines
        told = known[runs[field].id].said.get(spec_digest(specs[field]), {})
        assert told == ({peer_of(tmp_path / field): verdict.outcome} if verdict.final else {})
