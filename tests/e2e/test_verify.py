"""Rules of this file: real processes over real libp2p; one network for all cases of tampering.
What is asserted is what happened, and in which order; how long it took is compared with nothing."""

import json
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio
from msgspec import UNSET
from msgspec.structs import replace

from dipaco.cli.testnet.local_run import local_run
from dipaco.cli.testnet.processes import LocalNode, LocalSwarm
from dipaco.node.api.client import ask_status
from dipaco.node.runs.files import RunFile, write_run
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.routing.spec import RouterSpec, int32_bytes, spec_digest
from dipaco.protocol.routing.verdict import Outcome
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.identity import short_peer
from tests.e2e.tampered import derived, peer_of, prepare_home, said, tiny_run
from tests.e2e.tiny import LOOPBACK, TIMEOUT, dipaco_node

ENVIRONMENT = {"DIPACO_COMPUTE_THREADS": "1"}
Tamper = Callable[[RouterSpec], RouterSpec]


def same(spec: RouterSpec) -> RouterSpec:
    return spec


def other_centroid(spec: RouterSpec) -> RouterSpec:
    """One bit of one centroid: every static check still passes."""
    return replace(spec, centroids=bytes([spec.centroids[0] ^ 1]) + spec.centroids[1:])


def other_mean(spec: RouterSpec) -> RouterSpec:
    return replace(spec, mean=int32_bytes(spec.mean_array() ^ 1))


def round_robin_instead(spec: RouterSpec) -> RouterSpec:
    """The router that an author needs no sample for, every field of it consistent."""
    assert spec.fit is not None
    fit = replace(spec.fit, centroids=sha256(b""), restart=0, updates=0, inertia=bytes(16))
    counted = sum(spec.documents)
    halves = (counted - counted // 2, counted // 2)
    return replace(
        spec,
        kind="round_robin",
        mean=b"",
        centroids=b"",
        bias=b"",
        basis=UNSET,
        fit=fit,
        documents=halves,
    )


def longer_prefix(spec: RouterSpec) -> RouterSpec:
    return replace(spec, prefix=spec.prefix + 1)


def chosen_seed(spec: RouterSpec) -> RouterSpec:
    return replace(spec, feat_seed=sha256(b"chosen"))


CASES: dict[str, tuple[Tamper, str, int]] = {  # name: what was done, the stage, derivations due
    "honest": (same, "", 1),
    "centroid": (other_centroid, "centroids", 1),
    "round-robin": (round_robin_instead, "kind", 1),
    "prefix": (longer_prefix, "static", 0),
    "seed": (chosen_seed, "static", 0),
}


async def refuse(
    swarm: LocalSwarm, root: Path, specs: dict[str, tuple[RunFile, RouterSpec]]
) -> None:
    """Start a volunteer for each run; return when those of tampered ones ended, and one trains.

    Whoever is in the honest run goes on, and has heard of the refusals.
    """
    async with trio.open_nursery() as nursery:
        try:
            first = await swarm.start(nursery, "r", root / "r", ("--rendezvous", *LOOPBACK))
            await swarm.wait_ready(first)
            address = (await swarm.statuses())["r"].network.listen[0]
            nodes: dict[str, LocalNode] = {}
            for name, (run, _) in specs.items():
                joining = ("--bootstrap", address, "--run", run.id.hex(), *LOOPBACK)
                nodes[name] = await swarm.start(nursery, name, root / name, joining)
            for name, node in nodes.items():
                if name != "honest":
                    await node.process.wait()
                    await node.finished.wait()
            others = sorted(name for name in specs if name != "honest")
            while await heard_of(swarm) != {"r": others, "honest": others} or not any(
                "lease seed" in line for line in said(root / "r")
            ):
                pass  # asked anew: each answer takes a call to both nodes
            shown = await trio.to_thread.run_sync(dipaco_node, "status", "--home", str(root / "r"))
            assert shown.stdout.count("1 refuted)") == len(others), shown.stdout
        finally:
            await swarm.close()


async def heard_of(swarm: LocalSwarm) -> dict[str, list[str]]:
    """Return, per running node that refuses nothing, the runs whose router a peer refutes."""
    return {
        node: sorted(offer.name for offer in status.offers if offer.refuted == 1)
        for node, status in (await swarm.statuses()).items()
        if status.state != "refused"
    }


async def test_a_node_that_is_served_a_tampered_router_refuses_it_within_one_derivation(
    tiny: Path,
) -> None:
    root = tiny.parent
    runs = {name: tiny_run(root, name) for name in CASES}
    spec = derived(runs["honest"], root / "own")
    specs = {
        name: (run, CASES[name][0](replace(spec, manifest=run.id))) for name, run in runs.items()
    }
    prepare_home(root / "r", list(specs.values()))
    swarm = LocalSwarm(ENVIRONMENT)
    with trio.fail_after(TIMEOUT):
        await refuse(swarm, root, specs)
    codes = {node.name: node.process.returncode for node in swarm.nodes}
    assert codes == {"r": 0, "honest": 0} | {name: 4 for name in CASES if name != "honest"}
    journal = Journal.open(Home.at(root / "r").journal)
    known = RunStore(journal).runs
    journal.close()
    leases = [line for line in said(root / "r") if " lease " in line and " to=" in line]
    assert leases and all(short_peer(peer_of(root / "honest")) in line for line in leases)
    for name, (_, stage, derivations) in CASES.items():
        run, claimed = specs[name]
        record, me = known[run.id], peer_of(root / name)
        outcome = Outcome.REFUTED if stage else Outcome.VERIFIED
        assert record.said[spec_digest(claimed)] == {me: outcome}, name
        if stage:
            check_refusal(said(root / name), stage, derivations)
            assert record.length == 1, "nothing but the spec is in the ledger"


def check_refusal(lines: list[str], stage: str, derivations: int) -> None:
    """Hold a refusing node's log against the order of events that is due."""
    events = ("state deriving", "REFUTED", "state router", "receipt sent to", "dipaco-node: run")
    order = [event for line in lines for event in events if event in line]
    started = order.count("state deriving")
    assert started <= 1 and started >= derivations, lines
    assert order[started:] == list(events[1:]), lines
    assert f"REFUTED ({stage})" in next(line for line in lines if "REFUTED" in line)
    assert f"stage {stage}" in lines[-1]
    assert any(re.search("receipt sent to [1-9][0-9]* peers", line) for line in lines), lines
    assert not any("Traceback" in line or " task " in line for line in lines)


async def knows_the_spec(swarm: LocalSwarm, node: LocalNode) -> bool:
    assert node.running
    status = (await swarm.statuses()).get(node.name)
    return status is not None and status.run is not None and status.run.spec != ""


async def test_a_refusal_shows_in_the_status_and_ends_though_nobody_listens(tiny: Path) -> None:
    root, run = tiny.parent, tiny_run(tiny.parent, "tampered")
    spec = other_mean(derived(run, root / "own"))
    prepare_home(root / "r", [(run, spec)])
    swarm = LocalSwarm(ENVIRONMENT)
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            try:
                first = await swarm.start(nursery, "r", root / "r", ("--rendezvous", *LOOPBACK))
                await swarm.wait_ready(first)
                address = (await swarm.statuses())["r"].network.listen[0]
                joining = ("--bootstrap", address, *LOOPBACK)
                node = await swarm.start(nursery, "v", root / "v", joining)
                await swarm.wait_ready(node)
                while not await knows_the_spec(swarm, node):
                    pass  # asked anew: each answer takes a call to both nodes
                first.process.send_signal(signal.SIGSTOP)
                ask = partial(ask_status, node.home)
                while (await trio.to_thread.run_sync(ask)).reason.code != "router":
                    assert node.running
                asked = await trio.to_thread.run_sync(
                    dipaco_node, "status", "--json", "--home", str(root / "v")
                )
                await node.process.wait()
                await node.finished.wait()
            finally:
                first.process.send_signal(signal.SIGCONT)
                await swarm.close()
    status = json.loads(asked.stdout)
    assert (status["state"], status["reason"]["code"]) == ("refused", "router")
    assert (status["run"]["verdict"], status["run"]["stage"]) == ("refuted", "features")
    assert node.process.returncode == 4 and "stage features" in node.tail[-1]
    assert any("receipt sent to 0 peers" in line for line in node.tail)


def test_the_verify_command_tells_same_from_different_and_from_unknown(tiny: Path) -> None:
    run = local_run(tiny, seed=0, rounds=None).run
    folder = tiny.parent
    write_run(folder / "tiny.run", run)
    named = ("verify", str(folder / "tiny.run"), "--home", str(folder / "home"))
    own, other = folder / "own.spec", folder / "other.spec"
    spec = derived(run, folder / "own")
    unknown = dipaco_node(*named, "--out", str(own))
    assert unknown.returncode == 5 and "no other to compare it with" in unknown.stdout
    assert own.read_bytes() == encode(spec)
    same = dipaco_node(*named, "--spec", str(own), "--json")
    assert (same.returncode, same.stderr) == (0, "")
    assert json.loads(same.stdout) == {
        "run": run.id.hex(),
        "spec": spec_digest(spec).hex(),
        "own": spec_digest(spec).hex(),
        "verdict": "verified",
        "stage": "spec",
        "reason": "derived again from 80 documents, equal in every byte",
    }
    other.write_bytes(encode(other_centroid(spec)))
    differs = dipaco_node(*named, "--spec", str(other))
    assert differs.returncode == 4
    assert differs.stdout == (
        "tiny: REFUTED (centroids): centroids differs, though the inputs agree\n"
    )
