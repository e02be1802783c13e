"""The share of a round that is not spent in inner steps, over links of 100 Mbit/s.

Real processes: one rendezvous node, which schedules, and two volunteers. Each volunteer reaches
only that node, through a line of its own (`link`), as behind a home router. The number of inner
steps is chosen from the measured time of one, so that a lease lasts `LEASE_SECONDS`. The times of a
node's stages are read from its log; all nodes share this machine's clock.

DIPACO_BENCH_LEASE sets the seconds of a lease. DIPACO_BENCH_ENCODING=f32 sends all values whole,
DIPACO_BENCH_DELTAS=int2 (or another) encodes pseudo-gradients so, DIPACO_BENCH_LINE is the line's
rate in Mbit/s.
DIPACO_BENCH_SHAPE, `demo` or `20m`, measures that shape alone.
"""

import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import trio

from benchmarks.link import HOST, Direction, Link
from benchmarks.measure import Result, in_new_process
from benchmarks.rows import Rows
from dipaco.cli.testnet.local_run import local_keys
from dipaco.cli.testnet.processes import LOG_NAME, LocalSwarm
from dipaco.node.network.keys import save_key
from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.files import RunFile, sign_manifest, write_run
from dipaco.node.storage.files import Home
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.training import Adam
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import peer_id

RATE = float(os.environ.get("DIPACO_BENCH_LINE", "100")) * 1e6 / 8  # bytes per second, each way
DELAY = 0.01  # seconds, each way
VOLUNTEERS, SEED_STEPS = 2, 2
ROUNDS = {"demo": 3, "20m": 4}  # a volunteer has two leases in a round of `demo`, one in `20m`
FIRST = 2  # the first round measured: round 1 begins with whole states
LEASE_SECONDS = float(os.environ.get("DIPACO_BENCH_LEASE", "66"))
SMALL = os.environ.get("DIPACO_BENCH_ENCODING", "") != "f32"
DELTAS = os.environ.get("DIPACO_BENCH_DELTAS", "int4")
PROBE_STEPS = 4
MARK = 5.0  # %
POLL_SECONDS = 0.5
STALL_SECONDS = 900.0  # without a new record
NOWHERE = f"/ip4/{HOST}/tcp/1"  # announced by all nodes, so that they are reached by a line alone
STAGES = ("fetch", "around", "inner", "submit", "others", "outer", "rest")
"""The stages of a round, in their order; explained at `Round.stages`."""


def run() -> list[Result]:
    """Measure both shapes."""
    shapes = [only] if (only := os.environ.get("DIPACO_BENCH_SHAPE")) else list(ROUNDS)
    return [result for name in shapes for result in measure(name)]


def measure(name: str) -> list[Result]:
    """Run the network of one shape; returns the share and the traffic of its rounds."""
    plan = _planned(name)
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        links = trio.run(_network, plan, Path(folder))
        logs = [_read_log(Path(folder) / f"n{n}") for n in range(VOLUNTEERS)]
        rounds = _rounds(logs, _read_log(Path(folder) / "r"))
    return [_share(name, rounds), _traffic(name, plan.manifest, links)]


def step_seconds(name: str, clock: str = "perf_counter") -> float:
    """Return the seconds of one inner step of a shape, in this process.

    clock   a function of `time`; process_time: processor seconds, where others use the machine.
    """
    import torch

    from dipaco.node.training.inner_loop import PathState, Steps, make_deterministic, run_steps
    from dipaco.node.training.model import PathModel
    from dipaco.protocol.run.batches import RowOrder

    manifest = shape_manifest(name)
    make_deterministic(1)
    draw = np.random.default_rng(0)
    rows = draw.integers(0, manifest.tokenizer.vocabulary, (64, manifest.model.context + 1))
    weights = {m: initial_module(manifest, m) for m in manifest.topology.path_modules[0]}
    now: Callable[[], float] = getattr(time, clock)
    ended = [now()]
    run_steps(
        PathModel(manifest, torch.device("cpu")),
        manifest,
        PathState(weights=weights),
        Rows(rows),
        RowOrder(Digest(bytes(32)), len(rows)),
        Steps(
            count=PROBE_STEPS if name == "20m" else 50 * PROBE_STEPS, first_batch=0, first_rate=0
        ),
        max_batch=0,
        on_step=lambda report: ended.append(now()),
    )
    return min(later - sooner for sooner, later in pairwise(ended))  # the least disturbed


# -------------------------------------------------------------------------- the run


def shape_manifest(name: str) -> Manifest:
    """Return the packaged demo's run; `20m`: two paths of 20 M parameters that share half."""
    keys = local_keys(0)
    with as_file(files("dipaco.node.data") / "demo" / "demo.toml") as demo:
        manifest = create_manifest(
            demo, owner=peer_id(keys.owner), schedulers=(peer_id(keys.rendezvous),)
        ).manifest
    if name == "demo":
        return manifest
    levels = (Level(experts=2, blocks=5), Level(experts=1, blocks=5))
    return msgspec.structs.replace(
        manifest,
        model=Model(d_model=384, heads=6, kv_heads=6, d_ff=1088, context=128),
        grid=Grid(levels=levels, path_specific_blocks=()),
        # AdamW, whose moments are the most bytes; the demonstration trains with Muon.
        training=msgspec.structs.replace(manifest.training, inner=Adam(lr=3e-3)),
        # 18 of 1,800 documents: their evaluation is not part of the measurement.
        routing=msgspec.structs.replace(manifest.routing, validation_bp=100),
    )


def _planned(name: str) -> RunFile:
    """Return the run, with inner steps for `LEASE_SECONDS` on this machine."""
    manifest = shape_manifest(name)
    with ThreadPoolExecutor(VOLUNTEERS) as pool:  # together, as the volunteers will be
        both = pool.map(lambda _: in_new_process("round", "step_seconds", name), range(VOLUNTEERS))
        step = max(both)
    training = msgspec.structs.replace(
        manifest.training,
        seed_steps=SEED_STEPS,
        rounds=ROUNDS[name],
        inner_steps=max(2, round(LEASE_SECONDS / step)),
        **({"deltas": DELTAS, "updates": "int4"} if SMALL else {}),
    )
    print(f"{name}: {step:.4f} s a step, {training.inner_steps} steps a lease", flush=True)
    return sign_manifest(msgspec.structs.replace(manifest, training=training), local_keys(0).owner)


async def _network(plan: RunFile, folder: Path) -> list[Link]:
    """Run the network to the end of the run; returns the lines with their counts of bytes."""
    swarm = LocalSwarm(
        {
            "DIPACO_COMPUTE_DEVICE": "cpu",
            "DIPACO_COMPUTE_THREADS": "1",
            "DIPACO_COMPUTE_NICE": "0",
            "DIPACO_LOG_LEVEL": "debug",
            "DIPACO_LOG_FORMAT": "json",
        }
    )
    home = Home.at(folder / "r")
    save_key(home.identity, local_keys(0).rendezvous)
    write_run(home.root / "local.run", plan)
    port = _free_port()
    here = ("--listen", f"/ip4/{HOST}/tcp/{port}", "--announce", NOWHERE)
    links = [Link(port, Direction(RATE, DELAY), Direction(RATE, DELAY)) for _ in range(VOLUNTEERS)]
    try:
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            founding = ("--rendezvous", "--run", str(home.root / "local.run"), *here)
            first = await swarm.start(nursery, "r", home.root, founding)
            while not (await swarm.statuses()):
                await trio.sleep(POLL_SECONDS)
            scheduler = peer_id(local_keys(0).rendezvous)
            for number, link in enumerate(links):
                await stack.enter_async_context(link.open())
                entrance = f"/ip4/{HOST}/tcp/{link.entrance}/p2p/{scheduler}"
                joining = ("--bootstrap", entrance, "--run", plan.id.hex())
                behind = ("--listen", f"/ip4/{HOST}/tcp/0", "--announce", NOWHERE)
                await swarm.start(nursery, f"n{number}", folder / f"n{number}", joining + behind)
            records, since = 0, trio.current_time()
            while not (ledger := await swarm.ledger(first)).finished:
                for node in swarm.ended():
                    raise SystemExit(node.exit_text())
                if ledger.records != records:
                    records, since = ledger.records, trio.current_time()
                if trio.current_time() - since > STALL_SECONDS:
                    raise SystemExit(f"no record in {STALL_SECONDS:.0f} s")
                await trio.sleep(POLL_SECONDS)
            _check_traffic(await swarm.statuses(), links)
            await swarm.close()
            nursery.cancel_scope.cancel()
    finally:
        await swarm.close()
    return links


def _check_traffic(statuses: dict[str, Any], links: Sequence[Link]) -> None:
    """Check that all bytes that a volunteer reports went over its line."""
    for number, link in enumerate(links):
        status = statuses[f"n{number}"]
        if status.network.sent > link.up.bytes or status.network.received > link.down.bytes:
            raise SystemExit(f"volunteer {number} has traffic that did not use its line")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


# -------------------------------------------------------------------------- reading the logs


@dataclass
class Round:
    """One volunteer's time from one training lease to the next, in seconds."""

    begins: float
    ends: float = 0.0
    number: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """fetch: states and moments; around: reading them, the model, encoding the result; inner: the
    inner steps; submit: the upload and the check of the pseudo-gradients; others: the wait for the
    other volunteers' results; outer: the outer steps; rest: the ledger, asking for a lease, and an
    evaluation that takes longer than the waits."""
    handed_in: float = 0.0
    evaluating: float = 0.0
    """A part of others, outer and rest."""

    @property
    def seconds(self) -> float:
        """The seconds from lease to lease."""
        return self.ends - self.begins


Line = tuple[float, str]
_STAGE = re.compile(r"stage (\w+) seconds=([\d.]+)")
_TRAINED = re.compile(r"task \d+ train path=\d+ round=(\d+) seconds=([\d.]+) ")
_ACCEPTED = re.compile(r"accepted path=\d+ round=(\d+) ")
_STEPPED = re.compile(r"stepped module=\S+ version=(\d+)$")


def _read_log(home: Path) -> list[Line]:
    lines = (home / LOG_NAME).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [(entry["time"], entry["message"]) for entry in entries]


def _rounds(logs: Sequence[Sequence[Line]], scheduler: Sequence[Line]) -> list[Round]:
    """Return all volunteers' rounds from `FIRST` on that are followed by another lease."""
    accepted = _last_of_round(scheduler, _ACCEPTED)
    stepped = _last_of_round(scheduler, _STEPPED)
    found = []
    for log in logs:
        for each in _of_volunteer(log):
            _split_waiting(each, accepted.get(each.number, 0.0), stepped.get(each.number, 0.0))
            if each.number >= FIRST:
                found.append(each)
    return found


def _last_of_round(lines: Sequence[Line], pattern: re.Pattern[str]) -> dict[int, float]:
    found = ((pattern.match(message), when) for when, message in lines)
    return {int(match[1]): when for match, when in found if match}


def _of_volunteer(lines: Sequence[Line]) -> Iterator[Round]:
    """Split a volunteer's log at its training leases; the waits are split afterwards.

    What is done for one lease while another trains is logged as the stage `beside`, and is no part
    of a round: the next lease then begins when the one before has trained. A result may be
    accepted when the next lease trains already.
    """
    begun: list[Round] = []
    fetched = 0.0, 0.0  # when the last fetch began and its seconds, until the work itself is done
    for when, message in lines:
        if match := _STAGE.match(message):
            stage, seconds = match[1], float(match[2])
            if stage == "fetch":
                fetched = when - seconds, seconds
            elif stage == "evaluate" and begun:
                begun[-1].evaluating += when - (fetched[0] or when - seconds)
            elif stage == "train":
                current = Round(begins=fetched[0] or when - seconds, handed_in=when)
                current.stages |= {"fetch": fetched[1], "around": seconds}
                if begun:
                    begun[-1].ends = current.begins
                begun.append(current)
            elif stage == "submit" and begun:
                begun[-1].stages["submit"] = begun[-1].stages["submit"] or seconds
            if stage in ("evaluate", "train"):
                fetched = 0.0, 0.0
        elif match := _TRAINED.match(message):
            done = next(each for each in begun if not each.number)
            done.number, inner = int(match[1]), float(match[2])
            done.handed_in = when
            done.stages |= {"inner": inner, "around": done.stages["around"] - inner}
    yield from begun[:-1]


def _split_waiting(each: Round, accepted: float, stepped: float) -> None:
    """Split the time from the result to the next lease into the waits and the rest.

    accepted   the time at which the last result of the round was accepted.
    stepped    the time of the round's last outer step.
    """
    left = max(0.0, each.ends - each.handed_in)
    others = min(left, max(0.0, accepted - each.handed_in))
    outer = min(left - others, max(0.0, stepped - max(accepted, each.handed_in)))
    each.stages |= {"others": others, "outer": outer, "rest": left - others - outer}


# -------------------------------------------------------------------------- results


def _share(name: str, rounds: Sequence[Round]) -> Result:
    shares = [100 * (1 - each.stages["inner"] / each.seconds) for each in rounds]
    parts = ", ".join(
        f"{stage} {median(each.stages[stage] for each in rounds):.2f}" for stage in STAGES
    )
    evaluating = median(each.evaluating for each in rounds)
    apart = [
        100 * (1 - each.stages["inner"] / (each.seconds - each.stages["others"])) for each in rounds
    ]
    return Result(
        name=f"round not in inner steps, {name}",
        ours=median(shares),
        peer=MARK,
        ratio=median(shares) / MARK,
        unit="%",
        samples={"ours": shares, "peer": [MARK]}
        | {stage: [each.stages[stage] for each in rounds] for stage in STAGES},
        mark=1.0,
        better="lower",
        note=f"seconds: {parts} (evaluating meanwhile {evaluating:.2f}); "
        f"{median(apart):.1f} % without waiting for the other volunteer",
    )


def _traffic(name: str, manifest: Manifest, links: Sequence[Link]) -> Result:
    top = manifest.topology
    whole = sum(top.state_bytes(m) for m in top.path_modules[0]) / 1e6
    leases = manifest.training.rounds * manifest.paths / VOLUNTEERS
    up = [link.up.bytes / 1e6 / leases for link in links]
    down = [link.down.bytes / 1e6 / leases for link in links]
    return Result(
        name=f"up per lease, {name}",
        ours=median(up),
        peer=whole,
        ratio=median(up) / whole,
        unit="MB",
        samples={"ours": up, "peer": [whole], "down": down},
        note=f"all bytes, also the seed model's; the peer is a whole path in f32; "
        f"down {median(down):.2f} MB",
    )
