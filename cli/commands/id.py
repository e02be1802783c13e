"""`dipaco-node id`: prints the identity of this node."""

from pathlib import Path

import click

from dipaco.cli.answers import IdAnswer
from dipaco.cli.inputs import home_for
from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_status
from dipaco.node.api.values import NoDaemon
from dipaco.node.network.identity import load_or_create_identity
from dipaco.protocol.wire.identity import peer_id


@click.command(name="id")
@home_option
@json_option
def id_(home: str | None, as_json: bool) -> None:
    """Print the PeerID and, while the daemon runs, the commands with which others join."""
    with home_for(home_of(home)) as node:
        addresses = _addresses(node.root)
        peer = peer_id(load_or_create_identity(node.identity))
    if as_json:
        click.echo(json_text(IdAnswer(peer=peer, addresses=tuple(addresses))))
        return
    click.echo(peer)
    for address in addresses:
        click.echo(f"dipaco-node start --bootstrap {address}")


def _addresses(home: Path) -> list[str]:
    """Return the addresses of the daemon that runs in `home`; none if there is no daemon."""
    try:
        return [str(address) for address in ask_status(home).network.listen]
    except NoDaemon:
        return []
