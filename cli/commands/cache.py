"""`dipaco-node cache`: what a home stores, and room made on its disk. Works beside a daemon."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from dipaco.cli.answers import CacheAnswer, HeldBytes, PruneAnswer
from dipaco.cli.options import (
    Group,
    config_of,
    config_option,
    home_of,
    home_option,
    json_option,
    json_text,
)
from dipaco.protocol.numbers import size

if TYPE_CHECKING:
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.protocol.wire.digest import Digest

KINDS = {
    "blobs": "module states, deltas, tokenizers",
    "partial": "blobs that are arriving",
    "shards": "tokenised documents of each path",
    "sources": "source files fetched whole",
    "scratch": "files of running processes",
}
"""The description of each kind."""


@click.group(cls=Group)
def cache() -> None:
    """The files that a home stores: info, prune."""


@cache.command()
@home_option
@config_option
@json_option
def info(home: str | None, as_json: bool) -> None:
    """Print what the home stores by kind, its bound, and the free disk."""
    from dataclasses import asdict

    from dipaco.node.limits.disk import free_bytes
    from dipaco.node.storage.files import Home
    from dipaco.node.storage.stored import stored_in

    folder, most = home_of(home), config_of(home, {}).storage.cache_max
    stored = stored_in(Home(folder))
    free = free_bytes(next(each for each in (folder, *folder.parents) if each.exists()))
    if as_json:
        held, all_ = HeldBytes(**asdict(stored)), stored.total
        click.echo(
            json_text(CacheAnswer(home=str(folder), held=held, total=all_, max=most, free=free))
        )
        return
    for name, words in KINDS.items():
        click.echo(f"{name:<8} {size(getattr(stored, name)):>10}  {words}")
    click.echo(f"{'total':<8} {size(stored.total):>10}  of at most {size(most)} (cache_max)")
    click.echo(f"{'free':<8} {size(free):>10}  on the disk of {folder}")


@cache.command()
@click.option("--max", "most", metavar="SIZE", help="Bytes to leave, such as '2 GB' [cache_max].")
@home_option
@config_option
@json_option
def prune(most: str | None, home: str | None, as_json: bool) -> None:
    """Remove what can be made or fetched again, until the bound holds.

    Blobs that the runs of this home need stay. While a daemon runs, all blobs stay: it removes
    those that it does not need by itself.
    """
    from dipaco.node.quantities import parse_size
    from dipaco.node.storage.files import Home, HomeTaken
    from dipaco.node.storage.stored import stored_in
    from dipaco.protocol.errors import ConfigError

    folder = home_of(home)
    try:
        bound = config_of(home, {}).storage.cache_max if most is None else parse_size(most)
    except ValueError as error:
        raise ConfigError(f"--max: {error}") from None
    if not folder.is_dir():
        raise ConfigError(f"home: {folder} does not exist")
    place = Home.at(folder)
    before = stored_in(place).total
    with ExitStack() as held:
        try:
            held.enter_context(place.held())
            _make_room(place, bound, daemon=False)
        except HomeTaken:
            _make_room(place, bound, daemon=True)
    after = stored_in(place).total
    removed = before - after
    if as_json:
        click.echo(json_text(PruneAnswer(home=str(folder), removed=removed, left=after, max=bound)))
        return
    click.echo(f"{size(removed)} removed, {size(after)} left")
    if after > bound:
        click.echo("the rest is needed or in use", err=True)


def _make_room(home: "Home", most: int, *, daemon: bool) -> None:
    import math

    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.stored import make_room

    blobs = BlobStore(home.blobs)
    if daemon:
        make_room(home, blobs, (), most, used_before=-math.inf)
        return
    make_room(home, blobs, _needed(home, blobs), most, used_before=math.inf)


def _needed(home: "Home", blobs: "BlobStore") -> "frozenset[Digest]":
    """Return the blobs that the runs of a home need, whichever of them goes on."""
    from contextlib import closing

    from dipaco.node.assembly import claims_of
    from dipaco.node.network.keys import read_key
    from dipaco.node.runs.store import RunStore
    from dipaco.node.storage.journal import Journal
    from dipaco.protocol.wire.identity import peer_id

    me = peer_id(read_key(home.identity)) if home.identity.exists() else None
    with closing(Journal.open(home.journal)) as journal:
        return claims_of(home, blobs, RunStore(journal), journal, me).claimed()
