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

from dipaco.cli.testnet.local_run import local_keys, local_run
from dipaco.cli.testnet.processes import LocalSwarm
from dipaco.cli.views.report import Report, differences, read_report
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.identity import peer_id
from tests.e2e.tiny import LOOPBACK, TIMEOUT, dipaco_node

ROUNDS = 2
CHAOS = f"--rounds {ROUNDS} --nodes 2 --kill 1 --freeze 1:7s".split()
"""A fault in each round: the freeze comes first, so that another volunteer can take the lease."""


def test_kills_and_a_freeze_change_no_bit_of_what_one_process_computes(
    tiny_of_files: Path,
) -> None:
    """Of a run whose documents are a file of this machine, as a person's first run has them.

    Its leases end after 6 s of silence, so the frozen volunteer loses its own.
    """
    toml = tiny_of_files.read_text().replace("inner_steps = 60", "inner_steps = 40")
    tiny_of_files.write_text(f"{toml}[schedule]\nlease_ttl = 6\n")
    run, folder = str(tiny_of_files), tiny_of_files.parent
    swarm_file, single_file = folder / "swarm.json", folder / "single.json"
    done = dipaco_node("testnet", run, *CHAOS, "--no-check", "--report", str(swarm_file))
    assert done.returncode == 0, done.stderr
    single = dipaco_node(
        *("reference", run, "--rounds", str(ROUNDS), "--report", str(single_file)),
        *("--compare", str(swarm_file)),
    )
    assert single.returncode == 0, single.stdout + single.stderr
    assert "every module digest is the same" in single.stdout
    check_reports(tiny_of_files, read_report(swarm_file), read_report(single_file))
    check_faults(read_report(swarm_file))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_ctrl_c_a_closed_terminal_or_a_kill_ends_every_process_of_the_network(
    tiny: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "dipaco.cli.main", "testnet", str(tiny), "--nodes", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as testnet:
        assert testnet.stderr is not None
        first = testnet.stderr.readline()
        family = psutil.Process(testnet.pid).children(recursive=True)
        testnet.send_signal(number)
        said = testnet.communicate(timeout=TIMEOUT)[1]
    assert first.startswith("rendezvous node at /ip4/127.0.0.1/tcp/")
    assert testnet.returncode == (-9 if number == signal.SIGKILL else 130)
    assert "Traceback" not in said
    gone, alive = psutil.wait_procs(family, timeout=TIMEOUT)
    assert gone and not alive


def check_reports(tiny: Path, swarm: Report, single: Report) -> None:
    """Hold what the two say against the manifest: an empty report equals an empty report."""
    manifest = local_run(tiny, seed=0, rounds=ROUNDS).run.manifest
    versions = set(range(manifest.training.rounds + 1))
    for report in (swarm, single):
        assert report.completed and report.manifest == encode(manifest).hex()
        assert report.states.keys() == set(manifest.topology.modules)
        assert all(states.keys() == versions for states in report.states.values())
        assert [loss.version for loss in report.losses] == sorted(versions)
        assert all(len(loss.paths) == manifest.paths for loss in report.losses)
        first, last = report.losses[0].perplexity, report.losses[-1].perplexity
        assert first is not None and last is not None and last < first
    assert differences(swarm, single) == []
    for ours, theirs in zip(swarm.losses, single.losses, strict=True):
        assert ours.perplexity == pytest.approx(theirs.perplexity, rel=1e-6)
        assert ours.bytes == theirs.bytes is not None
    assert swarm.early_stopped is not None and single.early_stopped is not None
    assert [p.version for p in swarm.early_stopped.paths] == [
        p.version for p in single.early_stopped.paths
    ]
    nodes = {node.name: node for node in swarm.nodes}
    assert sorted(nodes) == ["node-1", "node-2", "rendezvous"]
    assert [node.killed for node in swarm.nodes].count(True) == 1
    assert all(node.verdict == "verified" for node in swarm.nodes)
    assert all(0 < node.memory.peak < 200e6 for node in swarm.nodes)


def check_faults(report: Report) -> None:
    """Hold that both faults met a volunteer.

    Which leases it held then, nobody can say here: one may have ended since its last status.
    """
    chaos = report.chaos
    assert chaos is not None and not chaos.stuck and not chaos.forked
    freeze, kill = chaos.faults
    assert (freeze.kind, kill.kind) == ("freeze", "kill")
    assert len(freeze.met) == len(kill.met) == 1
    assert freeze.ended is not None and freeze.next_record is not None
    assert len(chaos.heads) == 2
    assert {each.node for each in chaos.samples} == {node.name for node in report.nodes}


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
