"""`dipaco-node status`: asks the daemon that runs in a home; imports no network."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from dipaco.cli.options import home_of, home_option, json_option
from dipaco.cli.views.layout import fitted, is_drawable, terminal_width
from dipaco.cli.views.status import short_text, status_text
from dipaco.node.api.client import ask_status, watch
from dipaco.node.api.values import StreamQuery
from dipaco.node.status.document import Status


@click.command()
@click.option("--watch", "watches", is_flag=True, help="Show every change until Ctrl-C.")
@click.option("--short", is_flag=True, help="Print one line.")
@home_option
@json_option
def status(watches: bool, short: bool, home: str | None, as_json: bool) -> None:
    """Print the node's state, and the reason if it is not training.

    With --watch, a terminal shows the node, its run and the log, and takes keys: p pause, r resume,
    f finish, l log, q close. Elsewhere, and with --short, each change of state, work or run is
    printed as a line.
    """
    folder = home_of(home)
    if not watches:
        click.echo(_shown(ask_status(folder), short=short, as_json=as_json))
    elif as_json or short or not is_drawable():
        for text in _changes(folder, as_json=as_json):
            click.echo(text)
    else:
        from dipaco.cli.terminal.session import show_terminal

        show_terminal(folder)


def _shown(status: Status, *, short: bool, as_json: bool) -> str:
    if as_json:
        return msgspec.json.encode(status).decode()
    if short:
        return fitted(short_text(status), terminal_width())
    return status_text(status, terminal_width())


def _changes(home: Path, *, as_json: bool) -> Iterator[str]:
    """Yield a text for each status that differs from the one before in what the text says."""
    before = ""
    for status in _watched(home):
        text = _shown(status, short=True, as_json=as_json)
        if text != before:
            yield text
        before = text


def _watched(home: Path) -> Iterator[Status]:
    for told in watch(home, StreamQuery(topics="status")):
        if isinstance(told, Status):
            yield told
