"""Rules of this file: whole nodes over the transport in memory, on virtual time.

Attacks of one kind are tried on one network, one after the other, each measured by itself; then the
honest run goes on to its end, and has the digests of an undisturbed one. `python -m
tests.adversary --memory NAME` tries a single one.
"""

from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.adversary.memory import memory_arena, small_run
from tests.adversary.registry import all_attacks
from tests.node.scheduler.test_swarm import undisturbed

KINDS = sorted({each.kind for each in all_attacks() if each.runs_on("memory")})


@pytest.mark.parametrize("kind", KINDS)
async def test_the_honest_run_survives_attacks_on(
    kind: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    faults = {}
    async with memory_arena(tmp_path / "attacked") as arena:
        for attack in all_attacks():
            if attack.kind == kind and attack.runs_on("memory"):
                outcome = await arena.try_out(attack)
                if found := outcome.faults():
                    faults[attack.name] = found
        digests = await arena.end()
    assert not faults
    assert digests == await undisturbed(tmp_path, small_run())
