"""pause, resume, finish and why as a person types them: a served home, and mistakes without one."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
import trio

from dipaco.cli.exits import Exit
from tests.cli.shell import Shell
from tests.node.api.served import serving


async def typed(shell: Shell, home: Path, *arguments: str) -> str:
    """Return what a command prints that ends well, with times and spaces made alike."""
    call = partial(shell, *arguments, "--home", str(home))
    code, out, err = await trio.to_thread.run_sync(call)
    assert (code, err) == (Exit.OK, "")
    return re.sub(r"(\b(\w{3}|[\d-]{10}) )?\d\d:\d\d", "TIME", out.strip())


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("pause",), "paused until you resume: dipaco-node resume"),
        (
            ("pause", "--for", "2h"),
            "paused until TIME; to go on before: dipaco-node resume",
        ),
        (
            ("pause", "--until", "tomorrow 8:00"),
            "paused until TIME; to go on before: dipaco-node resume",
        ),
        (
            ("resume",),
            "resumed: works whenever no other limit forbids it (dipaco-node why)",
        ),
        (
            ("finish",),
            "finishing: no new lease, paused when the one in hand has ended; back with "
            "dipaco-node resume",
        ),
        (("pause", "--gpu", "0"), "cuda:0 is off, on with dipaco-node resume --gpu 0"),
        (
            ("resume", "--gpu", "0"),
            "resumed: works whenever no other limit forbids it (dipaco-node why)",
        ),
        (("why",), "TIME to now  training: path 1 round 1: 12 of 25 steps"),
        (("why", "--at", "2h ago"), "TIME to now  training: path 1 round 1: 12 of 25 steps"),
    ],
)
async def test_an_order_says_what_the_node_does_now_and_how_to_take_it_back(
    arguments: tuple[str, ...], answer: str, shell: Shell, tmp_path: Path
) -> None:
    async with serving(tmp_path / "home") as served:
        assert await typed(shell, served.home.root, *arguments) == answer


async def test_programs_get_the_same_as_json(shell: Shell, tmp_path: Path) -> None:
    async with serving(tmp_path / "home") as served:
        root = served.home.root
        assert json.loads(await typed(shell, root, "resume", "--json"))["mode"] == "runs"
        assert json.loads(await typed(shell, root, "finish", "--json"))["mode"] == "finishing"
        assert json.loads(await typed(shell, root, "pause", "--json"))["until"] is None
        assert json.loads(await typed(shell, root, "why", "--json"))["state"] == "training"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pause", "--until", "yesterday 8:00"), "is in the past, it is"),
        (("pause", "--until", "noon"), "'noon' is no moment: write it as 14:05"),
        (("pause", "--for", "2"), "the unit is missing; units: s, min, h, d"),
        (("pause", "--for", "0 s"), "a pause lasts more than no time and at most a year"),
        (("pause", "--for", "400 d"), "a pause lasts more than no time and at most a year"),
        (("pause", "--for", "1h", "--until", "8:00"), "give --for or --until, not both"),
        (("pause", "--gpu", "0", "--for", "1h"), "a GPU is off until resume --gpu: leave"),
        (("pause", "--gpu", "-1"), "-1 is not in the range 0<=x<=1023"),
        (("why", "--at", "tomorrow 8:00"), "is still to come"),
        (("why", "--at", "8 o'clock"), "write it as 14:05, 'yesterday 14:05'"),
    ],
)
def test_a_time_that_cannot_be_meant_is_one_line_and_code_2(
    arguments: tuple[str, ...], words: str, shell: Shell
) -> None:
    assert words in shell.fails(Exit.USAGE, *arguments)


@pytest.mark.parametrize("verb", ["pause", "resume", "finish", "why"])
def test_without_a_daemon_an_order_ends_with_9(verb: str, shell: Shell) -> None:
    assert "no daemon" in shell.fails(Exit.NO_DAEMON, verb)
