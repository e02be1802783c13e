"""The gate alone, on virtual time: limits that a test switches, work that notes its times."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.limits.gate import CHECK_SECONDS, Closed, Gate, Limit, closed
from dipaco.node.status.activity import Activity
from dipaco.protocol.errors import Refusal
from tests.node.scheduler.swarm import leaf


@dataclass
class Switch:
    """A limit that is closed for the reason it has, if it has one."""

    code: str
    why: str = ""

    def closed(self, now: float) -> Closed | None:
        return Closed(code=self.code, why=self.why, opens="opens later") if self.why else None


@dataclass(frozen=True)
class Until:
    """A limit that is closed until a time."""

    time: float

    def closed(self, now: float) -> Closed | None:
        return Closed(code="early", why="too early", opens="later") if now < self.time else None


def test_the_first_limit_that_forbids_work_gives_the_reason() -> None:
    heat, hours = Switch("heat"), Switch("hours", "outside of the hours")
    assert closed((heat, hours), 0.0) == hours.closed(0.0)
    heat.why = "86 degrees"
    assert str(closed((heat, hours), 0.0)) == "86 degrees; opens later"
    assert closed((), 0.0) is None
    assert closed((Until(5.0),), 4.9) and closed((Until(5.0),), 5.0) is None


class Work:
    """Notes when it began and ended, and what it heard as the reason; takes a while to end."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.spans: list[tuple[float, float, str]] = []

    async def __call__(self) -> None:
        begun = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            why = str(self.gate.closed)
            with trio.CancelScope(shield=True):
                await trio.sleep(1.0)
            self.spans.append((begun, trio.current_time(), why))


async def test_closing_cancels_the_work_with_its_reason_and_opening_starts_it_again(
    autojump_clock: MockClock,
) -> None:
    activity, switch = Activity(), Switch("heat")
    gate = Gate(activity, (switch,))
    work, start = Work(gate), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.run, work)
        await trio.sleep(20.0)
        assert activity.reason.code == "starting" and gate.closed is None
        switch.why = "86 degrees"
        gate.changed.notify()
        await trio.sleep(2.0)
        assert work.spans == [(start, start + 21.0, "86 degrees; opens later")]
        assert (activity.state, activity.reason.code) == ("paused", "heat")
        assert activity.reason.text == "86 degrees; opens later"
        await trio.sleep(100.0)
        switch.why = ""
        await trio.sleep(CHECK_SECONDS)
        assert activity.reason.code == "resuming" and gate.closed is None
        nursery.cancel_scope.cancel()
    assert len(work.spans) == 2 and work.spans[1][2] == "None"  # the end of the node closes nothing


async def test_a_limit_that_opens_while_the_work_ends_leaves_no_stale_reason(
    autojump_clock: MockClock,
) -> None:
    activity, switch = Activity(), Switch("heat")
    gate = Gate(activity, (switch,))
    work = Work(gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.run, work)
        await trio.sleep(20.0)
        switch.why = "86 degrees"
        gate.changed.notify()
        await trio.sleep(0.5)
        assert activity.reason.code == "heat"
        switch.why = ""
        await trio.sleep(1.0)
        assert len(work.spans) == 1 and activity.reason.code == "resuming"
        nursery.cancel_scope.cancel()


async def test_a_change_is_seen_within_the_time_between_two_looks(
    autojump_clock: MockClock,
) -> None:
    gate = Gate(Activity(), (Until(trio.current_time() + 12.0),))
    before = trio.current_time()
    assert await gate.wait_open()
    assert 12.0 <= trio.current_time() - before <= 12.0 + CHECK_SECONDS
    assert not await gate.wait_open()


@pytest.mark.parametrize("limits", [(), (Switch("heat"),)])
async def test_an_error_of_the_work_is_raised(
    limits: tuple[Limit, ...], autojump_clock: MockClock
) -> None:
    def failing(error: Exception) -> Callable[[], object]:
        async def work() -> None:
            await trio.sleep(1.0)
            raise error

        return work

    for error in (Refusal("not this run"), ZeroDivisionError()):
        with pytest.raises(BaseExceptionGroup) as caught:
            await Gate(Activity(), limits).run(failing(error))  # type: ignore[arg-type]
        assert leaf(caught.value) is error
