"""The scheduler of a run, and whether it answers, from the manifest's list, the term and time.

A term belongs to one scheduler of the list, so no two can sign records of one term. Time never
decides whose records are valid; it only tells for how long the scheduler has not answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dipaco.protocol.wire.identity import PeerId


@dataclass(frozen=True, slots=True)
class Authority:
    """The scheduler of a run, as one node sees it at one moment."""

    term: int
    scheduler: PeerId
    silence: float
    """Seconds since it last answered."""


def scheduler_of_term(schedulers: Sequence[PeerId], term: int) -> PeerId:
    """Return the only peer that may sign records of `term`.

    schedulers   of the manifest, in its order, at least one.
    """
    return schedulers[term % len(schedulers)]


def authority(schedulers: Sequence[PeerId], term: int, *, answered: float, now: float) -> Authority:
    """Return the scheduler of a run in `term`, and for how long it has been silent.

    answered   when it last answered, or when the node began to ask; seconds, as `now`.
    """
    return Authority(term, scheduler_of_term(schedulers, term), max(0.0, now - answered))
