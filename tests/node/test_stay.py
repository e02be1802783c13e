"""When a daemon leaves by itself: virtual time, and an activity that the test tells."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.status.activity import Activity
from dipaco.node.stay import PEER_SECONDS, Stay, stay_over
from dipaco.protocol.errors import Unavailable


async def over_after(
    stay: Stay, activity: Activity, *steps: Callable[[], None], connected: bool = True
) -> int | None:
    """Return after how many steps the stay was over; None: after none of them."""
    over: list[int] = []

    async def wait() -> None:
        await stay_over(stay, activity, lambda: connected)
        over.append(done)

    done = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        for step in steps:
            done += 1
            step()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return over[0] if over else None


async def test_it_leaves_after_so_many_accepted_tasks() -> None:
    activity = Activity()
    activity.sums.accept(10, 1.0)  # before it began

    def accept() -> None:
        activity.sums.accept(10, 1.0)
        activity.say("no-run", peers=1)

    def refuse() -> None:
        activity.sums.refuse()
        activity.say("no-run", peers=1)

    assert await over_after(Stay(tasks=2), activity, accept, refuse, accept) == 3


async def test_it_leaves_when_the_run_is_over() -> None:
    activity = Activity()
    steps = [
        lambda: activity.say("no-run", peers=1),
        lambda: activity.say("run-over", round=3, rounds=3, next=""),
    ]
    assert await over_after(Stay(until="finish"), activity, *steps) == 2
    assert await over_after(Stay(tasks=1), activity, *steps) is None


async def test_it_leaves_at_its_time(autojump_clock: MockClock) -> None:
    class Clock:
        now = 1000.0

        def time(self) -> float:
            return self.now + trio.current_time()

    with pytest.MonkeyPatch.context() as patch:
        start = trio.current_time()
        patch.setattr("dipaco.node.stay.time", Clock())
        await stay_over(Stay(until=1000.0 + start + 90.0), Activity(), lambda: True)
        assert trio.current_time() - start == pytest.approx(90.0)


async def test_tasks_without_a_peer_end_with_the_reason(autojump_clock: MockClock) -> None:
    activity = Activity()
    start = trio.current_time()
    with pytest.raises(Unavailable, match=r"no peer in 60 s: reading the home folder"):
        await stay_over(Stay(tasks=1), activity, lambda: False)
    assert trio.current_time() - start == pytest.approx(PEER_SECONDS)
