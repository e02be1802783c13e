"""A run of a few thousand parameters on synthetic documents, and how a person starts a process."""

import subprocess
import sys

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
path_specific_blocks = [1]
path_specific_stem = true
[routing]
overlap = 2
sample = 80
dimension = 16
validation_bp = 1500
router_bp = 2000
reshard = { after_round = 1, tolerance = 1 }
[training]
seed_steps = 4
rounds = 2
inner_steps = 60
batch = 8
inner_state = "carry"
deltas = "int8"
updates = "int4"
early_stopping = true
precision = "bf16"
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
