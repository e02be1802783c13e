"""The gate alone, on virtual time: limits that a test switches, work that notes its times."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.limits.gate import CHECK_SECONDS, PAUSED_SECONDS, Gate
from dipaco.node.limits.values import By, Closed, Limit, Observed, closed_by
from dipaco.node.status.activity import Activity
from dipaco.protocol.errors import Refusal
from tests.node.scheduler.swarm import leaf

EPOCH = 1_800_000_000.0  # Unix time at virtual time 0


@dataclass(eq=False)
class Switch:
    """A limit that is closed for the reason it has, if it has one."""

    code: str
    why: str = ""
    by: By = "limit"
    before: list[bool] = field(default_factory=list)
    """What it was told each time."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        self.before.append(before)
        if not self.why:
            return None
        return Closed(code=self.code, why=self.why, opens="opens later", by=self.by)


@dataclass(frozen=True)
class Until:
    """A limit that is closed until a time."""

    time: float
    by: By = "limit"
    told: bool = True
    """Whether it knows the time."""

    def closed(self, seen: Observed, now: float, *, before: bool) -> Closed | None:
        until = self.time if self.told else None
        early = Closed(code="early", why="too early", opens="later", until=until, by=self.by)
        return early if now < self.time else None


def clock() -> float:
    return EPOCH + trio.current_time()


def gate_of(activity: Activity, *limits: Limit) -> Gate:
    return Gate(activity, limits, Observed, clock=clock)


def test_all_reasons_are_told_the_persons_first_then_needs_then_limits() -> None:
    heat, hours = Switch("heat", "86 degrees"), Switch("hours", "outside of the hours")
    disk, user = Switch("disk", "full", "need"), Switch("user", "paused by you", "you")
    found = closed_by((heat, disk, hours, user), Observed(), 0.0, {})
    assert [each.code for each in found.values()] == ["user", "disk", "heat", "hours"]
    assert str(found[heat]) == "86 degrees; opens later"
    assert not closed_by((), Observed(), 0.0, {})


def test_a_limit_is_told_whether_it_was_closed_before() -> None:
    heat = Switch("heat", "86 degrees")
    closed_by((heat,), Observed(), 1.0, closed_by((heat,), Observed(), 0.0, {}))
    assert heat.before == [False, True]


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
    gate = gate_of(activity, switch)
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
    gate = gate_of(activity, switch)
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


@pytest.mark.parametrize(
    ("limit", "late"),
    [
        (Until(12.0 + EPOCH, told=False), CHECK_SECONDS),
        (Until(12.0 + EPOCH), 0.0),
        (Until(130.0 + EPOCH, "you", told=False), PAUSED_SECONDS),
        (Until(130.0 + EPOCH, "you"), 0.0),
    ],
)
async def test_a_change_is_seen_within_the_time_between_two_looks_and_a_known_time_at_once(
    limit: Until, late: float, autojump_clock: MockClock
) -> None:
    gate, before = gate_of(Activity(), limit), clock()
    after = limit.time - before
    assert await gate.wait_open()
    assert after - 0.01 <= clock() - before <= after + late + 0.01
    assert not await gate.wait_open()


async def test_the_status_tells_all_reasons_each_since_it_was_first_met(
    autojump_clock: MockClock,
) -> None:
    activity, heat, user = Activity(), Switch("heat", "86 degrees"), Switch("user", by="you")
    begun = clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate_of(activity, heat, user).run, trio.sleep_forever)
        await trio.sleep(1.0)
        user.why = "paused by you"
        await trio.sleep(100.0)
        told = [(each.code, each.since, each.cure) for each in activity.reasons]
        assert told[0][0] == "user" and begun + CHECK_SECONDS <= told[0][1] < begun + 10.0
        assert told[1] == ("heat", begun, "opens later")
        nursery.cancel_scope.cancel()


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
            await gate_of(Activity(), *limits).run(failing(error))  # type: ignore[arg-type]
        assert leaf(caught.value) is error
