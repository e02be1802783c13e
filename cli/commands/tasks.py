"""`dipaco-node tasks`: the tasks of the daemon that runs in a home; imports no network."""

import click

from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.cli.views.layout import terminal_width
from dipaco.cli.views.work import tasks_text
from dipaco.node.api.client import ask_tasks


@click.command()
@click.option("-n", "most", type=click.IntRange(1, 1000), default=20, help="How many [20].")
@home_option
@json_option
def tasks(most: int, home: str | None, as_json: bool) -> None:
    """Print the latest tasks: path, round, steps, speed, loss, bytes, and how each ended."""
    found = ask_tasks(home_of(home), most)
    if as_json:
        click.echo(json_text(found))
    else:
        click.echo(tasks_text(found.tasks, terminal_width()))
