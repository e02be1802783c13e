"""`dipaco-node key`: makes keys for nodes and for owners of runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.answers import KeyAnswer
from dipaco.cli.inputs import home_for
from dipaco.cli.options import Group, home_of, home_option, json_option, json_text
from dipaco.node.network.keys import read_key, save_key
from dipaco.node.storage.files import Home
from dipaco.protocol.wire.identity import peer_id

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@click.group(cls=Group)
def key() -> None:
    """Keys of nodes and of owners of runs."""


@key.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@home_option
@json_option
def new(file: Path | None, home: str | None, as_json: bool) -> None:
    """Make a key, in FILE or as the node's own; an existing key is never overwritten."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    if file is not None:
        save_key(file, made)
    else:
        with home_for(home_of(home)) as node:
            file = node.identity
            save_key(file, made)
    _say(file, made, as_json=as_json)


def _say(file: Path, written: "Ed25519PrivateKey", *, as_json: bool) -> None:
    answer = KeyAnswer(file=str(file), peer=peer_id(written))
    click.echo(json_text(answer) if as_json else f"{answer.file}: {answer.peer}")


@key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@json_option
def backup(file: Path, home: str | None, as_json: bool) -> None:
    """Copy the node's own key to FILE, for its owner alone; an existing file stays."""
    own = read_key(Home(home_of(home)).identity)
    save_key(file, own)
    _say(file, own, as_json=as_json)


@key.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@home_option
@json_option
def restore(file: Path, home: str | None, as_json: bool) -> None:
    """Make the key in FILE the node's own, in a home that has none."""
    own = read_key(file)
    with home_for(home_of(home)) as node:
        save_key(node.identity, own)
    _say(node.identity, own, as_json=as_json)
    click.echo("never start two nodes with one key: the second is turned away", err=True)
