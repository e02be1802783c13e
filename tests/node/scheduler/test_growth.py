"""A long run: nothing grows with its rounds but the ledger itself, and what is folded from it.

As in test_swarm: virtual time, real journals and blobs, fake work. No disk of this machine is
waited for.
"""

from collections.abc import Iterator, Sized
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.status.document import Totals
from dipaco.node.storage import blobs, files
from dipaco.node.storage.files import folder_bytes
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.run.model_shape import Grid, Level
from tests.node.scheduler import fakes
from tests.node.scheduler.kept_swarm import KeptSwarm
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found
from tests.values import manifest

ROUNDS, EARLY = 30, 10
VALUE = replace(
    manifest(grid=Grid(levels=(Level(experts=2, blocks=1),), path_specific_blocks=())),
    training=replace(manifest().training, rounds=ROUNDS, inner_state="carry"),
)
RUN = run_id(VALUE)
PARTS = (
    "run_store",
    "gossip",
    "gossip._rpc",
    "exchange",
    "claims",
    "rpc",
    "liveness",
    "dialer",
    "directory",
    "reputation",
    "transport",
    "activity",
    "activity.sums",
)
"""The parts of a node whose containers are measured, by attribute."""


def containers(node: SwarmNode) -> Iterator[tuple[str, object]]:
    """Yield the parts of a node that keep something, by name."""
    for name in PARTS:
        part: object = node.parts
        for attribute in name.split("."):
            part = getattr(part, attribute)
        yield name, part
    scheduler = node.parts.request_router.schedulers.get(RUN)
    if scheduler is not None:
        schedule = scheduler.schedule
        yield "scheduler", scheduler
        yield "schedule", schedule
        yield "schedule.state", schedule.state
        yield "schedule.state.pending", schedule.state.pending
        yield "schedule.standing", schedule.standing
        yield "schedule.parking", schedule.parking


def sizes(node: SwarmNode) -> dict[str, int]:
    """Return the lengths of all that a node keeps: containers, tables, files and their bytes."""
    node.parts.gossip._inventory()  # made when a peer asks: else chance decides what it holds
    found = {
        f"{name}.{attribute}": len(value)
        for name, part in containers(node)
        for attribute, value in getattr(part, "__dict__", {}).items()
        if isinstance(value, Sized) and not isinstance(value, str | bytes)
    }
    tables = node.parts.journal.sizes()
    found |= {f"table {name}": count for name, count in tables.items() if name != "ledger"}
    home = node.parts.home
    found["files"] = sum(1 for path in home.root.rglob("*") if path.is_file())
    found["bytes"] = folder_bytes(home.blobs) + folder_bytes(home.cache)
    return found


async def test_nothing_grows_with_the_rounds_of_a_run(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "TRAIN_SECONDS", 3.0)
    for module in (files, blobs):
        monkeypatch.setattr(module, "sync", lambda descriptor: None)
    found(tmp_path, VALUE)
    nodes = [await swarm.start(name) for name in (SCHEDULER, "anna", "bert")]
    rounds = nodes[0].parts.run_store.runs[RUN].rounds
    most: list[dict[str, int]] = []
    for last in (EARLY, ROUNDS - 1):  # the last round is another one: nobody trains on
        held: list[dict[str, int]] = [{} for _ in nodes]

        while rounds.done < last:
            for node, seen in zip(nodes, held, strict=True):
                for name, size in sizes(node).items():
                    seen[name] = max(size, seen.get(name, 0))
            await trio.sleep(2.0)
        most += held
    for early, late in zip(most[: len(nodes)], most[len(nodes) :], strict=True):
        # Chance decides when a measurement is taken. Totals have names: those, and the quota's two.
        may_grow = {"bytes": early["bytes"] // 2, "table totals": len(Totals.__struct_fields__) + 2}
        grown = {
            name: (early.get(name, 0), size)
            for name, size in late.items()
            if size > early.get(name, 0) + may_grow.get(name, 3)
        }
        assert grown == {}


async def test_keepers_let_go_of_blobs_that_no_later_round_needs(
    swarm: Swarm, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "TRAIN_SECONDS", 3.0)
    training = replace(VALUE.training, rounds=12)
    kept = KeptSwarm(swarm, tmp_path, changes={"grid": VALUE.grid, "training": training})
    await kept.start_all("anna", "bert")
    rounds = kept.nodes[SCHEDULER].parts.run_store.runs[kept.run].rounds
    most = []
    for last in (5, 11):
        held = dict.fromkeys(kept.keepers, 0)
        while rounds.done < last:
            for name in kept.keepers:
                blobs_of = kept.nodes[name].parts.home.blobs
                count = sum(1 for path in blobs_of.rglob("*") if path.is_file())
                held[name] = max(held[name], count)
            await trio.sleep(2.0)
        most.append(held)
    early, late = most
    assert all(early.values())
    # Chance decides how many are on their way at once: 12 to 29 were seen in any round.
    assert {name: count for name, count in late.items() if count > 2 * early[name]} == {}
