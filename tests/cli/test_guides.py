"""Rules of this file: every command that the two guides show can be typed as it stands there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from dipaco.cli.main import dipaco
from dipaco.protocol.run.invitation import Invitation

DOCS = Path(__file__).parents[2] / "docs"


def shown() -> list[str]:
    """Return the command lines of both pages."""
    pages = [(DOCS / name).read_text() for name in ("volunteer.md", "founder.md")]
    blocks = [
        block for page in pages for block in re.findall(r"^```\n(.*?)^```", page, re.S | re.M)
    ]
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", sorted(set(shown())))
def test_a_shown_command_is_one_that_can_be_typed(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "dipaco-node"
    command: click.Command = dipaco
    context = click.Context(dipaco)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command, context = found, click.Context(found, parent=context)
    command.parse_args(context, words)
    if command.name == "join":
        assert Invitation.parse(context.params["code"]).code == context.params["code"]


def test_both_guides_show_commands() -> None:
    assert len(set(shown())) > 15
