"""How long a daemon stays: for ever, or for some tasks, or to a time, or to the end of its run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import trio

from dipaco.node.status.activity import Activity
from dipaco.protocol.errors import Unavailable

PEER_SECONDS = 60.0  # to reach a first peer: dials end after 10 s and are repeated
LOOK_SECONDS = 60.0  # between two looks at the clock: the computer may sleep, or be set right


@dataclass(frozen=True, kw_only=True)
class Stay:
    """How a daemon begins, and what ends it by itself."""

    tasks: int | None = None
    """Results that were accepted since its start."""
    until: Literal["finish"] | float | None = None
    """`finish`: the end of its run; else Unix time, seconds."""
    paused: bool = False
    """Whether it begins paused, until `resume`."""
    dry_run: bool = False
    """Whether it only tries all that comes before a first lease."""

    @property
    def is_bounded(self) -> bool:
        """Whether the daemon leaves by itself."""
        return self.tasks is not None or self.until is not None


async def stay_over(stay: Stay, activity: Activity, connected: Callable[[], bool]) -> None:
    """Return when a bounded stay is over; an unbounded one never is.

    connected   whether this node is connected to a peer.

    Raises Unavailable if `tasks` are wanted and no peer is reached in `PEER_SECONDS`.
    """
    begun, accepted = trio.current_time(), activity.sums.now().accepted
    reached = False
    while not _is_over(stay, activity, accepted):
        reached = reached or connected()
        if stay.tasks and not reached and trio.current_time() >= begun + PEER_SECONDS:
            raise Unavailable(f"no peer in {PEER_SECONDS:g} s: {activity.reason.text}")
        with trio.move_on_after(_wait(stay, reached)):
            await activity.told.wait()


def _is_over(stay: Stay, activity: Activity, accepted: int) -> bool:
    if stay.tasks is not None and activity.sums.now().accepted >= accepted + stay.tasks:
        return True
    if stay.until == "finish":
        return activity.reason.code == "run-over"
    return stay.until is not None and time.time() >= stay.until


def _wait(stay: Stay, reached: bool) -> float:
    wait = LOOK_SECONDS if reached or not stay.tasks else PEER_SECONDS / 10
    if isinstance(stay.until, float):
        wait = min(wait, max(0.0, stay.until - time.time()))
    return wait
