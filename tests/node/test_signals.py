"""What each signal does. The daemon as a real process: tests/e2e/test_daemon.py."""

import signal
from functools import partial

import pytest
import trio
import trio.testing

from dipaco.node.signals import Actions, Reaction, heed_signals, reaction

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.mark.parametrize(
    ("number", "state", "expected"),
    [
        (TERM, {}, "leave"),
        (INT, {}, "leave"),
        (TERM, {"leaving"}, "leave now"),
        (INT, {"leaving", "service"}, "leave now"),
        (HUP, {}, "leave"),  # the terminal was closed
        (HUP, {"leaving"}, "nothing"),  # it may send it twice
        (HUP, {"changed"}, "read again"),
        (HUP, {"changed", "leaving"}, "read again"),
        (HUP, {"service"}, "read again"),  # a service has no terminal
        (USR1, {"leaving"}, "tell"),
        (USR2, {"service"}, "toggle"),
    ],
)
def test_a_signal_asks_for(number: int, state: set[str], expected: Reaction) -> None:
    found = reaction(
        number,
        leaving="leaving" in state,
        changed="changed" in state,
        service="service" in state,
    )
    assert found == expected


async def test_signals_of_the_process_reach_the_actions_in_order() -> None:
    done: list[str] = []
    left = trio.Event()
    changed = [True, False, False, False]

    def leave() -> None:
        done.append("leave")
        left.set()

    actions = Actions(
        leave=leave,
        leaving=left.is_set,
        changed=lambda: changed.pop(0),
        read_again=lambda: done.append("read again"),
        tell=lambda: done.append("tell"),
        toggle=lambda: done.append("toggle"),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(heed_signals, actions, service=False))
        for number in (HUP, USR1, USR2, TERM):
            signal.raise_signal(number)
            await trio.testing.wait_all_tasks_blocked()
        await left.wait()
        nursery.cancel_scope.cancel()
    assert done == ["read again", "tell", "toggle", "leave"]
