"""`dipaco-node peers`: the peers of the daemon that runs in a home; imports no network."""

import click

from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.cli.views.layout import terminal_width
from dipaco.cli.views.peers import PeerList, peers_text
from dipaco.node.api.client import ask_status


@click.command()
@home_option
@json_option
def peers(home: str | None, as_json: bool) -> None:
    """Print the connected peers: address, round trip, bytes, and since when."""
    found = ask_status(home_of(home))
    if as_json:
        click.echo(json_text(PeerList(peers=found.peers)))
    else:
        click.echo(peers_text(found, terminal_width()))
