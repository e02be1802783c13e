"""Paths that are absent from a round, the same in every comparison: what late nodes cost a model.

A quarter of the paths misses each round (docs/method.md 2.10), and every module with several paths
keeps half of them, as under a quorum of 1/2. The paths take turns.
"""

from collections.abc import Sequence
from typing import Final

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.training import Quorum

QUORUM: Final = Quorum(num=1, den=2, grace=0)


def nobody(manifest: Manifest, round_: int, live: Sequence[int]) -> frozenset[int]:
    """Return the paths that miss a round where none does."""
    return frozenset()


def a_quarter(manifest: Manifest, round_: int, live: Sequence[int]) -> frozenset[int]:
    """Return the paths that miss a round: a quarter of the live ones, as far as quorums allow.

    Each round begins its search one quarter further on, each fourth round one path further.
    """
    count, top = len(live) // 4, manifest.topology
    left = {module: {*top.paths_through(module)}.intersection(live) for module in top.modules}
    size = {module: len(paths) for module, paths in left.items()}
    begin = (round_ - 1) * count + (round_ - 1) // 4
    missed = set[int]()
    for place in range(len(live)):
        path = live[(begin + place) % len(live)]
        shared = [module for module in top.path_modules[path] if size[module] > 1]
        if len(missed) < count and all(
            QUORUM.reached(len(left[module]) - 1, size[module]) for module in shared
        ):
            missed.add(path)
            for module in shared:
                left[module].discard(path)
    return frozenset(missed)
