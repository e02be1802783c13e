"""Verification as a share of the demo's first round, and the peak memory of its daemons.

The packaged demo runs for one round: a rendezvous node and four volunteers, each of which derives
the router before its first lease. On a machine with few cores most of that time is waiting for a
core, since all derive at once.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measure import Result
from dipaco.cli.views.report import Report, read_report

NODES, ROUNDS = 4, 1


def run() -> Result:
    """Run the demo once."""
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "dipaco.cli.main", "testnet"]
        command += ["--nodes", str(NODES), "--rounds", str(ROUNDS), "--report", str(path)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        report = read_report(path)
    verifying = [seconds_of(report, node.peer, "derive") for node in report.nodes[1:]]
    peaks = [node.memory.peak / 1e6 for node in report.nodes]
    return Result(
        name="verification within the first round of the demo",
        ours=median(verifying),
        peer=report.seconds,
        ratio=median(verifying) / report.seconds,
        unit="s",
        samples={"ours": verifying, "peer": [report.seconds], "daemon_peak_mb": peaks},
        note=f"from the start to the end of round 1, seed model included; the largest daemon had "
        f"{max(peaks):.0f} MB",
    )


def seconds_of(report: Report, peer: str, stage: str) -> float:
    """Return the seconds that a node spent in a stage."""
    (node,) = (node for node in report.nodes if node.peer == peer)
    return sum(each.seconds for each in node.stages if each.stage == stage)
