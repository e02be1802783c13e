"""`dipaco-node events`: the events of a node in the last 30 days; imports no network."""

import re
import time
from pathlib import Path

import click

from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.cli.views.events import event_text
from dipaco.cli.views.layout import show_text
from dipaco.node.api.client import ask_events, watch
from dipaco.node.api.values import EventQuery, StreamQuery
from dipaco.node.limits.moments import parse_moment
from dipaco.node.quantities import parse_duration
from dipaco.node.status.events import Event

DAY = 86400.0


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--since", metavar="TIME", help="As '2h', 14:05 or 'yesterday 14:05' [1d].")
@home_option
@json_option
def events(follow: bool, since: str | None, home: str | None, as_json: bool) -> None:
    """Print the node's events in order: states with their reasons, and tasks.

    With --json, each is one object on a line.
    """
    folder = home_of(home)
    last = _replay(folder, _moment(since, time.time()), as_json)
    if follow:
        for told in watch(folder, StreamQuery(topics="events", after=last)):
            if isinstance(told, Event):
                _show(told, as_json)


def _replay(home: Path, since: float, as_json: bool) -> int:
    """Print the events since a Unix time; return the number of the last one."""
    last, more = 0, True
    while more:
        page = ask_events(home, EventQuery(after=last, since=since))
        for event in page.events:
            _show(event, as_json)
            last = event.number
        more = page.more
    return last


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        click.echo(json_text(event))
    else:
        show_text(event_text(event))


def _moment(since: str | None, now: float) -> float:
    """Return the Unix time that a person means, from a length of time or a moment."""
    if since is None:
        return now - DAY
    try:
        back = re.match(r"[0-9.]+ ?[a-z]+$", since)
        return max(0.0, now - parse_duration(since) if back else parse_moment(since, now))
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None
