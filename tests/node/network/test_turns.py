"""Turns: as many at once as there are, the groups that wait one after the other."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dipaco.node.network.turns import Turns


async def test_groups_take_turns_however_many_wait_in_one(autojump_clock: MockClock) -> None:
    turns, order = Turns(1, per_group=1), []

    async def work(group: str) -> None:
        async with turns.turn(group):
            order.append(group)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for group in "aaaabc":
            nursery.start_soon(work, group)
            await wait_all_tasks_blocked()
    assert "".join(order) == "aabcaa"


async def test_whoever_stops_waiting_takes_no_turn(autojump_clock: MockClock) -> None:
    turns = Turns(1, per_group=1)
    async with trio.open_nursery() as nursery:
        await turns.take("a")
        with trio.move_on_after(1):
            await turns.take("b")
        nursery.start_soon(turns.take, "c")
        await wait_all_tasks_blocked()
        turns.leave("a")
    turns.leave("c")
    with trio.fail_after(1):
        await turns.take("d")


async def test_a_turn_that_comes_with_the_cancellation_is_passed_on(
    autojump_clock: MockClock,
) -> None:
    turns, scope = Turns(1, per_group=1), trio.CancelScope()

    async def wait() -> None:
        with scope:
            await turns.take("b")

    async with trio.open_nursery() as nursery:
        await turns.take("a")
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        scope.cancel()
        turns.leave("a")
    with trio.fail_after(1):
        await turns.take("c")


async def test_a_group_leaves_a_turn_to_the_others(autojump_clock: MockClock) -> None:
    turns = Turns(2, per_group=1)
    await turns.take("a")
    with trio.move_on_after(1) as waited:
        await turns.take("a")
    assert waited.cancelled_caught
    with trio.fail_after(1):
        await turns.take("b")
