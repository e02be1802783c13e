"""`dipaco-node log`: the log of the daemon that runs in a home; imports no network."""

import click

from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.cli.views.events import line_text
from dipaco.cli.views.layout import show_text
from dipaco.node.api.client import ask_log, watch
from dipaco.node.api.values import LogQuery, StreamQuery
from dipaco.node.status.events import Level, LogLine

LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("-n", "most", type=click.IntRange(1, 1000), default=20, help="How many [20].")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="The least [all].")
@home_option
@json_option
def log(follow: bool, most: int, level: Level, home: str | None, as_json: bool) -> None:
    """Print the latest lines of the daemon's log since its start; with --json one a line."""
    folder, last = home_of(home), 0
    for line in ask_log(folder, LogQuery(most=most, level=level)).lines:
        _show(line, as_json)
        last = line.number
    if follow:
        query = StreamQuery(topics="log", line=last, level=level)
        for told in watch(folder, query):
            if isinstance(told, LogLine):
                _show(told, as_json)


def _show(line: LogLine, as_json: bool) -> None:
    if as_json:
        click.echo(json_text(line))
    else:
        show_text(line_text(line))
