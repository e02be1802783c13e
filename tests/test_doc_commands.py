"""Rules of this file: a command that a document shows exists, with its options and arguments.

What needs no network, no other node and no training is run, too, one line after the other.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from dipaco.cli.main import PROGRAM, dipaco, run
from tests.test_docs import PAGES, ROOT

GENERATED = {"commands.md", "CHANGELOG.md"}
"""Made from the commands themselves; of versions that are over."""
RUN = ("run init", "run create", "run show", "config", "key new", "completion", "version", "id")
"""The commands that are run where they are shown."""
ELLIPSIS = re.compile(r"\.\.\.|\[|\||VERB|<")


def shown(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every command line of a page, whole and as arguments."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:|sh|bash|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`(dipaco-node [^`]+)`", text)]
    for line in lines:
        line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        if line.startswith(f"{PROGRAM} ") and not ELLIPSIS.search(line.partition(" #")[0]):
            yield line, shlex.split(line, comments=True)[1:]


def fault(arguments: list[str]) -> str:
    """Return what is wrong with a command line; empty: nothing."""
    command: click.Command = dipaco
    context = click.Context(dipaco, info_name=PROGRAM, **dipaco.context_settings)
    try:
        while isinstance(command, click.Group):
            _, arguments, _ = command.make_parser(context).parse_args(arguments)
            if not arguments:
                return ""
            name, found, arguments = command.resolve_command(context, list(arguments))
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        given, rest, _ = command.make_parser(context).parse_args(list(arguments))
    except click.UsageError as error:
        return error.format_message()
    missing = [
        each.name
        for each in command.params
        if isinstance(each, click.Argument) and each.required and not _is_given(given, each)
    ]
    if "help" in given:
        missing = []
    return f"missing {missing}, too much: {rest}" if missing or rest else ""


def _is_given(given: dict[str, Any], argument: click.Argument) -> bool:
    value = given.get(str(argument.name))
    return isinstance(value, str) or (isinstance(value, tuple) and bool(value))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_can_be_given(page: Path) -> None:
    if page.name not in GENERATED:
        assert not {line: words for line, args in shown(page) if (words := fault(args))}


def test_the_checker_finds_what_is_wrong() -> None:
    assert "No such option" in fault(["status", "--wotch"])
    assert "No such command" in fault(["run", "craete"])
    assert fault(["generate", "RUN"]) == "missing ['prompt'], too much: []"
    assert fault(["stop", "now"]) == "missing [], too much: ['now']"
    assert fault(["start", "--bootstrap", "A"]) == ""
    assert sum(len(list(shown(page))) for page in PAGES) > 60


def test_what_can_be_run_here_is_run_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path / "home"))
    done = 0
    for line, arguments in shown(ROOT / "README.md"):
        if " ".join(arguments).startswith(RUN):
            assert run(arguments) == 0, (line, capsys.readouterr().err)
            done += 1
    assert done >= 2
