"""`dipaco-node status`: asks the daemon that runs in a home; imports no network."""

import click
import msgspec

from dipaco.cli.options import home_of, home_option, json_option
from dipaco.cli.views.layout import terminal_width
from dipaco.cli.views.status import status_text
from dipaco.node.api.client import ask_status


@click.command()
@home_option
@json_option
def status(home: str | None, as_json: bool) -> None:
    """Print the node's state, and the reason if it is not training."""
    found = ask_status(home_of(home))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(status_text(found, terminal_width()))
