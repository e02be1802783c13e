"""All chance of a universe from its seed, so that equal seeds give equal universes.

trio leaves open in which order the tasks run that are due at one moment, and draws lots for it:
its own random numbers (`trio._core._run._r`) are seeded, too, and the tasks are sorted before the
lots are drawn (`_ALLOW_DETERMINISTIC_SCHEDULING`), for they wait in sets. Sets of texts are in the
order of Python's hashes: another process gives the same universe only with the same PYTHONHASHSEED.
"""

import os
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trio._core import _run


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have everything that the nodes draw follow from `seed`, until the block ends."""
    source = random.Random(seed)

    def seed_of(self: random.Random, given: Any = None, version: int = 2) -> None:
        seed_by(self, source.getrandbits(64) if given is None else given, version)

    seed_by = random.Random.seed
    before, shared = (os.urandom, secrets.token_bytes), random.getstate()
    random.seed(source.getrandbits(64))
    _run._r.seed(source.getrandbits(64))
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    random.Random.seed = seed_of  # type: ignore[method-assign, assignment]
    os.urandom = source.randbytes
    secrets.token_bytes = lambda nbytes=None: source.randbytes(nbytes or 32)
    try:
        yield
    finally:
        random.Random.seed = seed_by  # type: ignore[method-assign]
        os.urandom, secrets.token_bytes = before
        random.setstate(shared)
        _run._ALLOW_DETERMINISTIC_SCHEDULING = False  # type: ignore[misc]
        _run._r.seed()
