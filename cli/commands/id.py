"""`dipaco-node id`: prints the identity of this node."""

import click

from dipaco.cli.options import home_of, home_option
from dipaco.node.api.client import ask_status
from dipaco.node.api.values import NoDaemon
from dipaco.node.network.identity import load_or_create_identity
from dipaco.node.storage.files import Home
from dipaco.protocol.wire.identity import peer_id


@click.command(name="id")
@home_option
def id_(home: str | None) -> None:
    """Print the PeerID and, while the daemon runs, the commands with which others join."""
    folder = home_of(home)
    click.echo(peer_id(load_or_create_identity(Home.at(folder).identity)))
    try:
        addresses = ask_status(folder).network.listen
    except NoDaemon:
        return
    for address in addresses:
        click.echo(f"dipaco-node start --bootstrap {address}")
