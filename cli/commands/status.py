"""`dipaco-node status`: asks the daemon that runs in a home; imports no network."""

import click
import msgspec

from dipaco.cli.options import home_of, home_option, json_option
from dipaco.cli.views.status import status_text
from dipaco.node.api.client import ask_status


@click.command()
@home_option
@json_option
def status(home: str | None, as_json: bool) -> None:
    """Print the node's state, and the reason if it is not training."""
    found = ask_status(home_of(home))
    click.echo(msgspec.json.encode(found).decode() if as_json else status_text(found))
