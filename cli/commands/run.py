"""`dipaco-node run`: makes, signs, checks, shows and lists run files; follows a run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.options import Group, home_of, home_option, json_option, json_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from dipaco.node.runs.create import Created
    from dipaco.node.storage.files import Home
    from dipaco.protocol.run.manifest import Manifest
    from dipaco.protocol.wire.identity import PeerId

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=Group)
def run() -> None:
    """Run files: init, create, sign, verify, show, list; takeover, follow."""


@run.command()
@click.argument("out", required=False, default="")
@click.option("--grid", default="2x2", metavar="AxB", help="Experts of each level [2x2].")
@click.option("--data", multiple=True, type=FILE, help="A local file of text [a packaged corpus].")
@click.option("--text-field", default="text", metavar="F", help="Column of the text [text].")
def init(out: str, grid: str, data: tuple[Path, ...], text_field: str) -> None:
    """Write a commented TOML file that runs as it stands, to OUT [stdout].

    --data may be given several times: .parquet, .jsonl (.gz, .zst) or .txt.
    """
    from math import prod

    from dipaco.cli.inputs import output_file
    from dipaco.node.runs.template import data_of, name_of, parse_grid, run_template
    from dipaco.node.storage.files import write_file

    path = output_file(out, "OUT") if out else None
    levels = parse_grid(grid)
    folder = path.parent if path else Path()
    found = data_of(data, text_field, folder, prod(levels)) if data else None
    text = run_template(name_of(path or Path()), levels, found)
    if path is None:
        click.echo(text, nl=False)
        return
    write_file(path, text.encode("utf-8"))
    click.echo(
        f"{path}: try it on this machine: dipaco-node reference {path}\n"
        f"next: dipaco-node run create {path} --out {path.with_suffix('.run')}",
        err=True,
    )


@run.command()
@click.argument("file", type=FILE)
@click.option("--out", required=True, metavar="FILE", help="The run file to write.")
@click.option("--force", is_flag=True, help="Overwrite the run file.")
@click.option("--key", type=FILE, help="The owner's key file [this node's own].")
@click.option("--owner", metavar="PEER", help="The owner, who signs it later with `run sign`.")
@home_option
@json_option
def create(
    file: Path,
    out: str,
    force: bool,
    key: Path | None,
    owner: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Make a run file from a TOML FILE: pin sources and tokenizer, check every field.

    It is signed with the owner's key; with --owner it is an unsigned manifest for `run sign`.
    """
    from dipaco.cli.inputs import home_for, output_file
    from dipaco.cli.views.manifest import made_answer, manifest_line
    from dipaco.node.network.identity import load_or_new_identity
    from dipaco.node.network.keys import read_key
    from dipaco.node.runs.files import peer_named
    from dipaco.protocol.errors import ConfigError
    from dipaco.protocol.wire.identity import peer_id

    if owner is not None and key is not None:
        raise click.UsageError("--key and --owner exclude each other")
    path = output_file(out, "--out", force=force)
    if path.exists() and file.exists() and path.samefile(file):
        raise ConfigError(f"--out: {path} is the TOML file itself")
    named = None if owner is None else peer_named(owner, "--owner")
    with home_for(home_of(home)) as node:
        own = None
        if named is None:
            own = read_key(key) if key else load_or_new_identity(node.identity)
        created = _created(file, peer_id(own) if own is not None else named, node)
        _write(path, created, own, node, keep_key=key is None)
    if as_json:
        click.echo(json_text(made_answer(path, created.manifest, signed=own is not None)))
    else:
        click.echo(f"{path}: {manifest_line(created.manifest)}{', unsigned' if owner else ''}")
        click.echo(f"next: {_next(path, created.manifest, own)}", err=True)


def _next(path: Path, manifest: "Manifest", own: "Ed25519PrivateKey | None") -> str:
    """Return the command that follows on `run create`."""
    from dipaco.protocol.wire.identity import peer_id

    if own is None:
        return f"dipaco-node run sign {path} --key OWNER.key"
    scheduler = manifest.schedule.schedulers[0]
    where = "" if scheduler == peer_id(own) else f", in the home of {scheduler}"
    return f"dipaco-node start --rendezvous --run {path}{where}"


def _created(file: Path, owner: "PeerId | None", node: "Home") -> "Created":
    from dipaco.cli.views.progress import job_display
    from dipaco.node.runs.create import create_manifest
    from dipaco.node.storage.blobs import BlobStore

    assert owner is not None
    with job_display(f"pinning {file.name}") as show:
        return create_manifest(
            file,
            owner=owner,
            cache=node.cache / "sources",
            blobs=BlobStore(node.blobs),
            on_progress=show,
        )


def _write(
    out: Path, created: "Created", own: "Ed25519PrivateKey | None", node: "Home", *, keep_key: bool
) -> None:
    """Write the run file, signed if there is a key, and what it needs; all of it or nothing."""
    from dipaco.node.network.identity import save_identity
    from dipaco.node.runs.files import sign_manifest
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import replacing
    from dipaco.protocol.wire.canonical import encode

    value = created.manifest if own is None else sign_manifest(created.manifest, own).signed
    if created.tokenizer is not None:
        BlobStore(node.blobs).write(created.tokenizer)
    with replacing(out) as file:
        file.write(encode(value))
        if own is not None and keep_key:
            save_identity(node.identity, own)


@run.command()
@click.argument("file", type=FILE)
@click.option("--key", required=True, type=FILE, help="The owner's key file.")
@click.option("--out", metavar="FILE", help="The run file to write [FILE itself].")
@click.option("--force", is_flag=True, help="Overwrite the run file.")
def sign(file: Path, key: Path, out: str | None, force: bool) -> None:
    """Sign a manifest that `run create --owner` made, with its owner's key."""
    from dipaco.cli.inputs import output_file
    from dipaco.cli.views.manifest import manifest_line
    from dipaco.node.network.keys import read_key
    from dipaco.node.runs.files import read_manifest, sign_manifest, write_run

    path = file if out is None else output_file(out, "--out", force=force)
    signed = sign_manifest(read_manifest(file), read_key(key))
    write_run(path, signed)
    click.echo(f"{path}: {manifest_line(signed.manifest)}, signed by {signed.signed.signer}")


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
@json_option
def show(name: str, home: str | None, as_json: bool) -> None:
    """Describe a run; RUN is a run file, or an id or name known to this node."""
    from dipaco.cli.views.layout import terminal_width
    from dipaco.cli.views.manifest import manifest_answer, manifest_text
    from dipaco.node.runs.known import named_run

    found = named_run(name, home_of(home))
    if as_json:
        click.echo(json_text(manifest_answer(found)))
    else:
        click.echo(manifest_text(found, terminal_width()))


@run.command()
@click.argument("name", metavar="RUN")
@click.option("--out", required=True, metavar="FILE", help="The ledger file to write.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@home_option
def ledger(name: str, out: str, force: bool, home: str | None) -> None:
    """Write a run's ledger to a file, for others to check; RUN is known to this node."""
    from dipaco.cli.inputs import output_file
    from dipaco.node.runs.ledger_file import ledger_at, write_ledger
    from dipaco.protocol.numbers import count

    path = output_file(out, "--out", force=force)
    told = ledger_at(home_of(home), name)
    write_ledger(path, told)
    click.echo(f"{path}: {told.run.manifest.name}, {count(len(told.records), 'record')}")


@run.command()
@click.argument("name", metavar="RUN")
@click.option("--key", required=True, type=FILE, help="The owner's key file.")
@click.option("--term", type=int, metavar="N", help="The term to begin [the next of this node].")
@click.option(
    "--keepers-gone", is_flag=True, help="No quorum of the run's keepers ever comes back."
)
@home_option
def takeover(name: str, key: Path, term: int | None, keepers_gone: bool, home: str | None) -> None:
    """Let a scheduler of RUN go on, without keepers, from the ledger of this stopped home.

    For a run without keepers whose scheduler is gone for good, or with --keepers-gone.
    """
    from dipaco.node.network.keys import own_peer, read_key
    from dipaco.node.runs.known import named_run
    from dipaco.node.runs.takeover import grant_term, granted_text

    root = home_of(home)
    found = named_run(name, root)
    grant, scheduler = grant_term(
        found, root, read_key(key), term=term, me=own_peer(root), keepers_gone=keepers_gone
    )
    click.echo(granted_text(grant, scheduler))


@run.command()
@click.argument("name", metavar="RUN")
@click.option("--bootstrap", multiple=True, metavar="ADDR", help="A peer to dial first.")
@home_option
@json_option
def follow(name: str, bootstrap: tuple[str, ...], home: str | None, as_json: bool) -> None:
    """Watch a run from outside to its end: no worker, no share in it, no key that stays.

    RUN is a name, an id or its beginning, or the code of an invitation, which has an address, too.
    Without --bootstrap it dials the peers that `start` would.
    """
    from dipaco.cli.following import follow_run

    follow_run(name, bootstrap, home, as_json=as_json)


@run.command(name="list")
@home_option
@json_option
def list_(home: str | None, as_json: bool) -> None:
    """List the runs that this node offers or has received."""
    from dipaco.cli.views.manifest import run_answer
    from dipaco.node.runs.known import known_runs

    runs = known_runs(home_of(home))
    if as_json:
        click.echo(json_text([run_answer(found.manifest) for found in runs]))
        return
    from dipaco.cli.views.layout import terminal_width
    from dipaco.cli.views.manifest import runs_text

    if runs:
        click.echo(runs_text(runs, terminal_width()))
