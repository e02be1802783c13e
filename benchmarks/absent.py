"""The throughput of four volunteers of which one is down a fifth of the time: whole nodes.

The nodes are real, on the transport in memory; time is virtual, and training takes 60 s a path
(`tests/node/scheduler/swarm.py`). The one is killed without a word for 60 s of every 300.
"""

import logging
import tempfile
from pathlib import Path

import trio
from msgspec.structs import replace
from trio.testing import MockClock

from benchmarks.measure import Result
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Grid, Level
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.values import manifest

DOWN_SECONDS, PERIOD_SECONDS, ROUNDS = 60.0, 300.0, 4
MARK = 0.9  # of the undisturbed throughput, with 0.95 of the time of four nodes


def run() -> list[Result]:
    """Measure both in virtual seconds."""
    logging.disable()
    alone, disturbed = _seconds(down=False), _seconds(down=True)
    return [
        Result(
            name="throughput with 1 of 4 nodes down 20 % of the time / undisturbed",
            ours=1 / disturbed,
            peer=1 / alone,
            ratio=alone / disturbed,
            unit="runs/s, virtual",
            samples={"ours": [1 / disturbed], "peer": [1 / alone]},
            mark=MARK,
            note=f"{alone:.0f} s undisturbed, {disturbed:.0f} s with the node that is down",
        )
    ]


def _seconds(*, down: bool) -> float:
    clock = MockClock(autojump_threshold=0)
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        return trio.run(_swarm, Path(folder), down, clock=clock)


async def _swarm(folder: Path, down: bool) -> float:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(folder, nursery)
        found(folder, _run(), SCHEDULER)
        scheduler = await swarm.start(SCHEDULER)
        nodes = [await swarm.start(name) for name in ("anna", "bert", "cara", "dora")]
        await until(lambda: nodes[0].parts.activity.sums.now().accepted > 0)
        began = trio.current_time()

        async def come_and_go() -> None:
            node = nodes[0]
            while True:
                await trio.sleep(PERIOD_SECONDS - DOWN_SECONDS)
                await swarm.kill(node)
                await trio.sleep(DOWN_SECONDS)
                node = await swarm.start("anna")

        if down:
            nursery.start_soon(come_and_go)
        await until(lambda: scheduler.reporter.ledger().finished, seconds=36000.0)
        seconds = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return seconds


def _run() -> Manifest:
    """Return a run of 16 paths."""
    plain = manifest()
    return replace(
        plain,
        grid=Grid(levels=(Level(experts=4, blocks=1),) * 2, path_specific_blocks=()),
        training=replace(plain.training, rounds=ROUNDS),
    )
