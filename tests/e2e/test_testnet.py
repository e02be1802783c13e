"""Rules of this file: real processes over real libp2p on loopback, as a person starts them.

Synthetic documents and a model of a few thousand parameters keep it short. Nothing waits for a
time: the testnet ends by itself, and has a watchdog.
"""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import trio

from dipaco.cli.local_run import local_keys, local_run
from dipaco.cli.report import Report, differences, read_report
from dipaco.cli.swarm import LocalNode, LocalSwarm
from dipaco.node.catalogue import Catalogue
from dipaco.node.keys import save_key
from dipaco.node.runs import RunFile, write_run
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.training.jobs import Derive, Derived
from dipaco.node.training.performer import Performer
from dipaco.node.training.worker import WorkerSettings
from dipaco.protocol.canonical import encode
from dipaco.protocol.identity import peer_id
from dipaco.protocol.ledger import SpecAdopted
from dipaco.protocol.signed import sign
from dipaco.protocol.spec import RouterSpec, spec_digest
from dipaco.protocol.topology import topology

TINY = """
name = "tiny"
seed = 3
[source]
kind = "synthetic"
documents = 160
[model]
d_model = 16
heads = 2
kv_heads = 2
d_ff = 32
context = 48
[grid]
levels = [{ experts = 2, blocks = 1 }, { experts = 1, blocks = 1 }]
[routing]
sample = 80
dimension = 16
validation_bp = 1500
[training]
seed_steps = 4
rounds = 2
inner_steps = 60
batch = 8
[training.inner]
[training.outer]
"""
TIMEOUT = 240.0  # seconds; they take 30 on two cores
LOOPBACK = ("--listen", "/ip4/127.0.0.1/tcp/0")


def dipaco_node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dipaco.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_killed_volunteer_changes_no_bit_of_what_one_process_computes(tiny: Path) -> None:
    swarm_file, single_file = tiny.with_name("swarm.json"), tiny.with_name("single.json")
    done = dipaco_node(
        "testnet", str(tiny), "--nodes", "2", "--kill", "1", "--report", str(swarm_file)
    )
    assert done.returncode == 0, done.stderr
    single = dipaco_node(
        "reference", str(tiny), "--report", str(single_file), "--compare", str(swarm_file)
    )
    assert single.returncode == 0, single.stdout + single.stderr
    assert "every module digest is the same" in single.stdout
    check_reports(tiny, read_report(swarm_file), read_report(single_file))


def test_ctrl_c_ends_every_process_of_the_network(tiny: Path) -> None:
    command = [sys.executable, "-m", "dipaco.cli.main", "testnet", str(tiny), "--nodes", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as testnet:
        assert testnet.stderr is not None
        first = testnet.stderr.readline()
        family = psutil.Process(testnet.pid).children(recursive=True)
        testnet.send_signal(signal.SIGINT)
        said = testnet.communicate(timeout=TIMEOUT)[1]
    assert first.startswith("rendezvous node at /ip4/127.0.0.1/tcp/")
    assert testnet.returncode == 130 and "Traceback" not in said
    gone, alive = psutil.wait_procs(family, timeout=TIMEOUT)
    assert gone and not alive


def check_reports(tiny: Path, swarm: Report, single: Report) -> None:
    """Hold what the two say against the manifest: an empty report equals an empty report."""
    manifest = local_run(tiny, seed=0, rounds=None).run.manifest
    versions = set(range(manifest.training.rounds + 1))
    for report in (swarm, single):
        assert report.completed and report.manifest == encode(manifest).hex()
        assert report.states.keys() == set(topology(manifest).modules)
        assert all(states.keys() == versions for states in report.states.values())
        assert [loss.version for loss in report.losses] == sorted(versions)
        assert all(len(loss.paths) == manifest.paths for loss in report.losses)
        assert report.losses[-1].perplexity < report.losses[0].perplexity
    assert differences(swarm, single) == []
    for ours, theirs in zip(swarm.losses, single.losses, strict=True):
        assert ours.perplexity == pytest.approx(theirs.perplexity, rel=1e-6)
    nodes = {node.name: node for node in swarm.nodes}
    assert sorted(nodes) == ["node-1", "node-2", "rendezvous"]
    assert [node.killed for node in swarm.nodes].count(True) == 1
    assert all(node.verdict == "verified" for node in swarm.nodes)
    assert all(0 < node.memory.peak < 200e6 for node in swarm.nodes)


async def test_a_node_whose_seed_is_away_says_so_keeps_trying_and_leaves_when_asked(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there any more
    away = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(local_keys(0).rendezvous)}"
    swarm = LocalSwarm({})
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            try:
                node = await swarm.start(nursery, "v", tmp_path, ("--bootstrap", away, *LOOPBACK))
                await swarm.wait_ready(node)
                status = (await swarm.statuses())["v"]
                while str(port) not in status.reason.text:
                    status = (await swarm.statuses())["v"]
                asked = await trio.to_thread.run_sync(dipaco_node, "stop", "--home", str(tmp_path))
                await node.process.wait()
            finally:
                await swarm.close()
    assert (status.state, status.reason.code) == ("connecting", "no-peer")
    assert (asked.returncode, asked.stdout) == (0, "stopping\n")
    assert node.process.returncode == 0


def derived(run: RunFile, folder: Path) -> RouterSpec:
    performer = Performer(WorkerSettings(home=folder))
    answer = performer.perform(Derive(manifest=run.manifest), lambda progress: None)
    assert isinstance(answer, Derived) and answer.spec is not None
    return answer.spec


def tampered(spec: RouterSpec) -> RouterSpec:
    """The spec with one bit of one centroid flipped: every static check still passes."""
    centroids = bytearray(spec.centroids)
    centroids[0] ^= 1
    fields = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return RouterSpec(**(fields | {"centroids": bytes(centroids)}))


def prepare_rendezvous(root: Path, run: RunFile, spec: RouterSpec) -> None:
    """Make the home of a rendezvous node that adopted `spec` for its run."""
    key = local_keys(0).rendezvous
    home = Home.at(root)
    save_key(home.identity, key)
    journal = Journal.open(home.journal)
    catalogue = Catalogue(journal)
    catalogue.publish("manifest", run.signed)
    catalogue.publish("spec", sign(spec, key))
    catalogue.append(run.id, SpecAdopted(epoch=0, spec=spec_digest(spec)), key)
    journal.close()


async def join(root: Path, run: RunFile) -> tuple[LocalNode, LocalNode]:
    """Start the prepared rendezvous node and a volunteer; return both when they have ended."""
    swarm = LocalSwarm({"DIPACO_COMPUTE_THREADS": "1"})
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            try:
                first = await swarm.start(nursery, "r", root / "r", ("--rendezvous", *LOOPBACK))
                await swarm.wait_ready(first)
                address = (await swarm.statuses())["r"].network.listen[0]
                joining = ("--bootstrap", address, "--run", run.id.hex(), *LOOPBACK)
                volunteer = await swarm.start(nursery, "v", root / "v", joining)
                await volunteer.process.wait()
                await volunteer.finished.wait()
            finally:
                await swarm.close()
    return first, volunteer


async def test_a_node_that_is_served_a_tampered_router_refuses_and_names_the_stage(
    tiny: Path,
) -> None:
    run = local_run(tiny, seed=0, rounds=None).run
    honest = derived(run, tiny.parent / "own")
    prepare_rendezvous(tiny.parent / "r", run, tampered(honest))
    first, volunteer = await join(tiny.parent, run)
    assert first.process.returncode == 0, "it takes a TERM, and leaves within its 10 seconds"
    assert volunteer.process.returncode == 4, list(volunteer.tail)
    assert "stage centroids" in volunteer.tail[-1]
    assert not any("Traceback" in line for line in volunteer.tail)


def test_the_verify_command_tells_same_from_different_and_from_unknown(tiny: Path) -> None:
    run = local_run(tiny, seed=0, rounds=None).run
    folder = tiny.parent
    write_run(folder / "tiny.run", run)
    named = ("verify", str(folder / "tiny.run"), "--home", str(folder / "home"))
    own, other = str(folder / "own.spec"), folder / "other.spec"
    unknown = dipaco_node(*named, "--out", own)
    assert unknown.returncode == 5 and "none to compare it with" in unknown.stdout
    same = dipaco_node(*named, "--spec", own)
    assert (same.returncode, same.stderr) == (0, "") and "VERIFIED" in same.stdout
    other.write_bytes(encode(tampered(derived(run, folder / "own"))))
    differs = dipaco_node(*named, "--spec", str(other))
    assert differs.returncode == 4 and "REFUTED (centroids)" in differs.stdout
