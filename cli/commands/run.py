"""`dipaco-node run`: makes, signs, checks, shows and lists run files; needs no network."""

import json
from pathlib import Path

import click

from dipaco.cli.options import Group, OutFile, home_of, home_option, json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=Group)
def run() -> None:
    """Run files: create, sign, verify, show, list."""


@run.command()
@click.argument("file", type=FILE)
@click.option("--out", required=True, type=OutFile(), help="The run file to write.")
@click.option("--key", type=FILE, help="The owner's key file [this node's own].")
@click.option("--owner", metavar="PEER", help="The owner, who signs it later with `run sign`.")
@home_option
def create(file: Path, out: Path, key: Path | None, owner: str | None, home: str | None) -> None:
    """Make a run file from a TOML FILE: pin sources and tokenizer, check every field.

    It is signed with the owner's key; with --owner it is an unsigned manifest for `run sign`.
    """
    from dipaco.cli.views.manifest import manifest_line
    from dipaco.cli.views.progress import job_display
    from dipaco.node.network.identity import load_or_create_identity
    from dipaco.node.network.keys import read_key
    from dipaco.node.runs.create import create_manifest
    from dipaco.node.runs.files import peer_named, sign_manifest, write_manifest, write_run
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.protocol.wire.identity import peer_id

    if owner is not None and key is not None:
        raise click.UsageError("--key and --owner exclude each other")
    node = Home.at(home_of(home))
    blobs = BlobStore(node.blobs)
    own = None
    if owner is None:
        own = read_key(key) if key else load_or_create_identity(node.identity)
    with job_display(f"pinning {file.name}") as show:
        created = create_manifest(
            file,
            owner=peer_id(own) if own is not None else peer_named(owner or "", "--owner"),
            cache=node.cache / "sources",
            blobs=blobs,
            on_progress=show,
        )
    if own is None:
        write_manifest(out, created.manifest)
    else:
        write_run(out, sign_manifest(created.manifest, own))
    if created.tokenizer is not None:
        blobs.write(created.tokenizer)
    click.echo(f"{out}: {manifest_line(created.manifest)}{', unsigned' if owner else ''}")


@run.command()
@click.argument("file", type=FILE)
@click.option("--key", required=True, type=FILE, help="The owner's key file.")
@click.option("--out", type=FILE, help="The run file to write [FILE itself].")
def sign(file: Path, key: Path, out: Path | None) -> None:
    """Sign a manifest that `run create --owner` made, with its owner's key."""
    from dipaco.cli.views.manifest import manifest_line
    from dipaco.node.network.keys import read_key
    from dipaco.node.runs.files import read_manifest, sign_manifest, write_run

    signed = sign_manifest(read_manifest(file), read_key(key))
    write_run(out or file, signed)
    click.echo(f"{out or file}: {manifest_line(signed.manifest)}, signed by {signed.signed.signer}")


@run.command()
@click.argument("file", type=FILE)
def verify(file: Path) -> None:
    """Check a run file's encoding, digest and signature; `verify` checks the router."""
    from dipaco.cli.views.manifest import manifest_line
    from dipaco.node.runs.files import read_run

    found = read_run(file)
    click.echo(f"{file}: {manifest_line(found.manifest)}, signed by {found.signed.signer}")


@run.command()
@click.argument("name", metavar="RUN")
@home_option
def show(name: str, home: str | None) -> None:
    """Describe a run; RUN is a run file, or an id or name known to this node."""
    from dipaco.cli.views.manifest import manifest_text
    from dipaco.node.runs.known import named_run

    click.echo(manifest_text(named_run(name, home_of(home))))


@run.command(name="list")
@home_option
@json_option
def list_(home: str | None, as_json: bool) -> None:
    """List the runs that this node offers or has received."""
    from dipaco.node.runs.known import known_runs

    runs = known_runs(home_of(home))
    if as_json:
        table = [
            {"id": r.id.hex(), "name": r.manifest.name, "owner": r.manifest.owner} for r in runs
        ]
        click.echo(json.dumps(table))
    for found in () if as_json else runs:
        click.echo(f"{found.id.hex()[:16]}  {found.manifest.name:<20} {found.manifest.owner}")
