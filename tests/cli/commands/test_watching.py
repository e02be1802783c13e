"""status, log and events as a person follows them: a served home, and a reader that leaves."""

import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from dipaco.cli.exits import Exit
from dipaco.node.condition import Condition
from dipaco.node.status.events import Event
from tests.cli.shell import Shell
from tests.node.api.fake_node import PEER
from tests.node.api.served import Served, serving


class Sent(Condition):
    """Knows when the server has sent all there is, and waits for more."""

    def __init__(self) -> None:
        super().__init__()
        self.all = trio.Event()

    async def wait(self) -> None:
        self.all.set()
        await super().wait()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "served") as served:
        yield served


async def typed(shell: Shell, served: Served, *arguments: str) -> str:
    """Return what a command prints that ends well."""
    call = partial(shell, *arguments, "--home", str(served.home.root))
    code, out, err = await trio.to_thread.run_sync(call)
    assert (code, err) == (Exit.OK, "")
    return str(out)


async def test_peers_tasks_and_the_short_status_are_printed(shell: Shell, served: Served) -> None:
    assert PEER in await typed(shell, served, "peers")
    assert "working" in await typed(shell, served, "tasks")
    assert (await typed(shell, served, "tasks", "-n", "1")).count("\n") == 2
    assert (await typed(shell, served, "status", "--short")).startswith("training: path 1")


async def test_a_log_of_a_level_is_printed_and_nothing_below(shell: Shell, served: Served) -> None:
    for level in (logging.INFO, logging.ERROR):
        record = logging.LogRecord("dipaco", level, "", 0, f"line {level}", None, None)
        served.node.log_lines.handle(record)
    assert (await typed(shell, served, "log")).count("\n") == 2
    assert (await typed(shell, served, "log", "--level", "error")).endswith(" error   line 40\n")


async def test_events_are_replayed_over_all_pages(shell: Shell, served: Served) -> None:
    served.node.saved = [
        Event(number=number, time=4e9, kind="state", code="no-lease", text=f"event {number}")
        for number in range(1, 2502)
    ]
    lines = (await typed(shell, served, "events", "--json")).splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(1, 2502))
    assert await typed(shell, served, "events", "--since", "2h")


@pytest.mark.parametrize(
    ("arguments", "topic"),
    [
        (("status", "--watch"), "training: path 1 round 1"),
        (("status", "--watch", "--json"), '"pid":4242'),
        (("events", "-f"), "state no-lease: event 1"),
        (("log", "-f"), "warning line 1"),
    ],
)
async def test_following_goes_on_until_the_daemon_ends_which_is_code_9(
    arguments: tuple[str, ...], topic: str, shell: Shell, tmp_path: Path
) -> None:
    ended: list[tuple[int, str, str]] = []

    async def follow(root: Path) -> None:
        call = partial(shell, *arguments, "--home", str(root))
        ended.append(await trio.to_thread.run_sync(call))

    async with trio.open_nursery() as nursery, serving(tmp_path / "served") as served:
        served.node.event_log.changed = sent = Sent()
        served.node.event_log.add("state", "no-lease", "event 1")
        record = logging.LogRecord("dipaco", logging.WARNING, "", 0, "line 1", None, None)
        served.node.log_lines.handle(record)
        nursery.start_soon(follow, served.home.root)
        await sent.all.wait()
    ((code, out, err),) = ended
    assert code == Exit.NO_DAEMON and topic in out
    assert err == "dipaco-node: the daemon ended\n"


@pytest.mark.parametrize("verb", ["peers", "tasks", "log", "events", "status --watch", "log -f"])
def test_without_a_daemon_each_says_so(verb: str, shell: Shell) -> None:
    assert "no daemon runs in" in shell.fails(Exit.NO_DAEMON, *verb.split())


@pytest.mark.parametrize("since", ["", "soon", "2 parsecs", "25:00", "-1h"])
def test_a_time_that_is_none_is_told(since: str, shell: Shell) -> None:
    assert "--since" in shell.fails(Exit.USAGE, "events", "--since", since)
