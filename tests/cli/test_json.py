"""Rules of this file: what a verb prints with --json is what the published schema says of it.

The fixture `published` holds every document that any test of this folder has a verb print, as well
as those below, against docs/json.schema.json.
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from dipaco.cli.exits import Exit
from dipaco.cli.main import dipaco
from dipaco.node.status.events import Event
from tests.cli.published import DEFS, VERBS, verb_of
from tests.cli.shell import Shell
from tests.cli.test_surface import commands
from tests.cli.tiny import TINY
from tests.golden.validate import faults
from tests.node.api.fake_node import work
from tests.node.api.served import Served, serving

ELSEWHERE = {
    "doctor": "commands/test_doctor.py",
    "verify": "commands/test_verify.py",
    "verify --history": "commands/test_history.py",
    "credits": "commands/test_credits.py",
    "eval": "commands/test_checkpoints.py",
    "generate": "commands/test_checkpoints.py",
    "run follow": "commands/test_follow.py",
    "invite": "commands/test_invitations.py",
    "ckpt list": "commands/test_checkpoints.py",
    "service status": "commands/test_service.py",
    "ui": "commands/test_ui.py",
}
"""Verbs that need a checkpoint, a ledger, a service or a port: the file whose tests have one."""
OF_A_DAEMON = {
    "status": (),
    "peers": (),
    "tasks": ("-n", "2"),
    "log": (),
    "events": ("--since", "365d"),
    "why": (),
    "pause": ("--for", "2h"),
    "resume": (),
    "finish": (),
    "id": (),
}
ALONE = {
    "run create": ("mine.toml", "--out", "mine.run"),
    "run show": ("mine.run",),
    "run list": (),
    "cache info": (),
    "config show": (),
    "config get": ("network.max_up",),
    "config check": (),
    "update": ("--check",),
    "version": (),
}


def test_every_verb_that_prints_json_has_a_schema_and_a_test() -> None:
    printing = {
        name
        for name, command in commands(dipaco)
        if any("--json" in p.opts for p in command.params)
    }
    assert printing | {"verify --history"} == VERBS.keys()
    assert VERBS.keys() == {*OF_A_DAEMON, *ALONE, *ELSEWHERE}
    for file in ELSEWHERE.values():
        assert "--json" in (Path(__file__).parent / file).read_text()


async def typed(shell: Shell, served: Served, *arguments: str) -> str:
    call = partial(shell, *arguments, "--json", "--home", str(served.home.root))
    code, out, err = await trio.to_thread.run_sync(call)
    assert (code, err) == (Exit.OK, "")
    return out


@pytest.mark.parametrize("verb", OF_A_DAEMON)
async def test_what_a_client_prints_is_as_published(
    verb: str, shell: Shell, tmp_path: Path, published: list[str]
) -> None:
    async with serving(tmp_path / "served") as served:
        served.node.saved = [
            Event(number=1, time=2e9, kind="node", code="started", text="version 0.1.0"),
            Event(number=2, time=2e9, kind="task", code="lost", text="t", task=work(1, "lost")),
            Event(number=3, time=2e9, kind="state", code="disk", text="full", state="paused"),
        ]
        line = logging.LogRecord("dipaco.test", logging.WARNING, "", 0, "a line", None, None)
        served.node.log_lines.handle(line)
        assert await typed(shell, served, *verb.split(), *OF_A_DAEMON[verb])
    assert published and set(published) == {verb}


def test_what_a_verb_prints_without_a_daemon_is_as_published(
    shell: Shell, published: list[str]
) -> None:
    shell.write("mine.toml", TINY)
    for verb, more in ALONE.items():
        code, out, err = shell(*verb.split(), *more, "--json")
        assert (code, bool(out)) == (Exit.OK, True), err
    assert published == [*ALONE]


@pytest.mark.parametrize(
    ("verb", "change"),
    [
        ("status", {"pid": "4242"}),
        ("status", {"state": "lost"}),
        ("status", {"schema": 2}),
        ("status", {"peers": [{"id": "A", "address": ""}]}),
        ("status", {"extra": 1}),
        ("tasks", {"tasks": [{}]}),
        ("id", {"addresses": None}),
        ("version", {"dipaco-node": 1}),
    ],
)
async def test_a_document_of_another_form_is_noticed(
    verb: str, change: dict[str, Any], shell: Shell, tmp_path: Path
) -> None:
    async with serving(tmp_path / "served") as served:
        told = json.loads(await typed(shell, served, verb) if verb != "version" else "{}")
    assert verb == "version" or not faults(told, VERBS[verb], DEFS)
    assert faults(told | change, VERBS[verb], DEFS)


def test_the_verb_of_a_command_line_is_found() -> None:
    assert verb_of(["run", "list", "--json"]) == "run list"
    assert verb_of(["verify", "--history", "x", "--json"]) == "verify --history"
    assert verb_of(["status", "--json", "--home", "log"]) == "status"
