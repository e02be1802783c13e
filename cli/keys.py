"""`dipaco-node id` and `key new`: who this node is."""

from pathlib import Path

import click

from dipaco.cli.options import home_of, home_option
from dipaco.node.api.client import ask_status
from dipaco.node.api.values import NoDaemon
from dipaco.node.keys import read_key, save_key
from dipaco.node.network.identity import load_or_create_identity
from dipaco.node.storage.files import Home
from dipaco.protocol.identity import peer_id


@click.command(name="id")
@home_option
def id_(home: str | None) -> None:
    """Print the PeerID and, while the daemon runs, the line the next person pastes."""
    folder = home_of(home)
    click.echo(peer_id(load_or_create_identity(Home.at(folder).identity)))
    try:
        addresses = ask_status(folder).network.listen
    except NoDaemon:
        return
    for address in addresses:
        click.echo(f"dipaco-node start --bootstrap {address}")


@click.group()
def key() -> None:
    """Keys of nodes and of owners of runs."""


@key.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@home_option
def new(file: Path | None, home: str | None) -> None:
    """Make a key, in FILE or as the node's own; never over an old one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = file or Home.at(home_of(home)).identity
    save_key(path, Ed25519PrivateKey.generate())
    click.echo(f"{path}: {peer_id(read_key(path))}")
