"""A run of volunteers of unlike speed, second by second: the schedule is real, all else numbers.

`python -m tests.node.scheduler.crowd` prints the wall time of a run with and without the rules of
`pace`, and what each volunteer did.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from dipaco.node.scheduler import choosing
from dipaco.protocol.run.model_shape import Grid, Level
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.calls import NoLease, Stands
from dipaco.protocol.work.kinds import Lease, SeedLease, TrainLease
from tests.node.scheduler.shell import Shell
from tests.values import manifest, peer

SPEEDS = (100, 100, 100, 50, 50, 50, 10, 10)  # seconds of a path's training: 1 : 2 : 10
EVALUATE_SECONDS, BEAT_SECONDS, HOUR = 1, 3, 3600


@dataclass
class Node:
    """A volunteer that works as fast as it can; away from time to time."""

    who: PeerId
    seconds: int
    lease: Lease | None = None
    ready: int = 0
    """When it is done with its lease, or asks again."""
    trained: int = 0
    wasted: int = 0
    """Leases that it lost before their end."""


@dataclass
class Crowd:
    """A run of 4 x 4 paths."""

    speeds: tuple[int, ...] = SPEEDS
    rounds: int = 4
    experts: int = 4
    now: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """The codes and first words of the answers without a lease."""

    def __post_init__(self) -> None:
        plain = manifest()
        run = replace(
            plain,
            grid=Grid(levels=(Level(experts=self.experts, blocks=1),) * 2, path_specific_blocks=()),
            training=replace(plain.training, rounds=self.rounds),
        )
        self.shell = Shell(run, (10,) * run.paths)
        self.nodes = [Node(peer(f"n{n}"), seconds) for n, seconds in enumerate(self.speeds)]
        self.shell.seed(self.nodes[-1].who)

    def run(self) -> int:
        """Return the seconds until all rounds are trained."""
        while self.shell.schedule.rounds.done < self.rounds:
            assert self.now < HOUR * 10, "the run does not end"
            self.now += 1
            self.shell.make(self.shell.schedule.expire(float(self.now)))
            for node in self.nodes:
                self._beat(node)
            for node in self.nodes:
                self._work(node)
            self.shell.arrive()
            while self.shell.step():
                for node in self.nodes:  # a new record wakes whoever waits
                    if node.lease is None:
                        node.ready = min(node.ready, self.now + 1)
        return self.now

    def _beat(self, node: Node) -> None:
        if node.lease is None or self.now % BEAT_SECONDS:
            return
        told = self.shell.beat(node.who, node.lease, now=float(self.now), progress=self.now)
        if not isinstance(told, Stands):
            node.wasted += 1
            node.lease, node.ready = None, self.now

    def _work(self, node: Node) -> None:
        if self.now < node.ready:
            return
        now, shell = float(self.now), self.shell
        if node.lease is not None and shell.submit(node.who, node.lease, now) == Stands():
            node.trained += isinstance(node.lease, TrainLease)
        got = shell.ask(node.who, now)
        if isinstance(got, NoLease):
            node.lease, node.ready = None, self.now + int(got.retry_after)
            self.reasons[got.reason.split(" by ")[0][:40]] += 1
            return
        node.lease = got
        long = isinstance(got, SeedLease | TrainLease)
        node.ready = self.now + (node.seconds if long else EVALUATE_SECONDS)


@contextmanager
def without_pace() -> Iterator[None]:
    """Inside the block, nobody is held back, and nothing is done twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "held_back", lambda *_: "")
        patch.setattr(choosing, "work_to_double", lambda *_: None)
        yield


def main() -> None:
    """Print the wall times."""
    for speeds in (SPEEDS, (100,) * 8, (100, 10, 10, 10, 10, 10, 10, 10), (60, 50, 40, 30) * 2):
        with without_pace():
            plain = Crowd(speeds)
            before = plain.run()
        crowd = Crowd(speeds)
        after = crowd.run()
        print(f"{speeds}: {before} s before, {after} s now, {after / before:.2f}")
        print("  trained", [n.trained for n in crowd.nodes], [n.trained for n in plain.nodes])
        print("  wasted ", [n.wasted for n in crowd.nodes], [n.wasted for n in plain.nodes])


if __name__ == "__main__":
    main()
