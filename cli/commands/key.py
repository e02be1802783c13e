"""`dipaco-node key`: makes keys for nodes and for owners of runs."""

from pathlib import Path

import click

from dipaco.cli.inputs import home_for
from dipaco.cli.options import Group, home_of, home_option
from dipaco.node.network.keys import save_key
from dipaco.protocol.wire.identity import peer_id


@click.group(cls=Group)
def key() -> None:
    """Keys of nodes and of owners of runs."""


@key.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@home_option
def new(file: Path | None, home: str | None) -> None:
    """Make a key, in FILE or as the node's own; an existing key is never overwritten."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    if file is not None:
        save_key(file, made)
    else:
        with home_for(home_of(home)) as node:
            file = node.identity
            save_key(file, made)
    click.echo(f"{file}: {peer_id(made)}")
