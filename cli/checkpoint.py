"""`dipaco-node ckpt`: what there is of a run's modules, and exports of it for other software."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from dipaco.cli.checkpoints import bring_states, checkpoint_options, open_checkpoint
from dipaco.cli.options import home_of, home_option, json_option

if TYPE_CHECKING:
    from dipaco.node.checkpoints import Checkpoint


@click.group()
def ckpt() -> None:
    """Checkpoints: list, export."""


@ckpt.command(name="list")
@click.argument("name", metavar="[RUN]", default="")
@home_option
@json_option
def list_(name: str, home: str | None, as_json: bool) -> None:
    """List the modules that each path is used with, and whether their states are here.

    RUN is an id or name known to this node, a run file, or the folder of an exported bank [all
    runs that this node knows].
    """
    from dipaco.cli.runs_known import known_runs
    from dipaco.protocol.errors import Unavailable

    folder = home_of(home)
    names = [name] if name else [run.id.hex() for run in known_runs(folder)]
    if not names:
        click.echo(f"{folder} knows no run: join one with dipaco-node start", err=True)
    for each in names:
        try:
            listed = listing(open_checkpoint(each, folder, None))
        except Unavailable as none_yet:
            if name:
                raise
            click.echo(str(none_yet), err=True)
            continue
        click.echo(msgspec.json.encode(listed).decode() if as_json else in_words(listed))


class ListedModule(msgspec.Struct, frozen=True, kw_only=True):
    """One module at one version."""

    module: str
    version: int
    newest: int
    """The run's last version of it."""
    paths: tuple[int, ...]
    """That are used with this version."""
    bytes: int
    here: bool
    state: str
    """SHA-256, hex."""


class ListedPath(msgspec.Struct, frozen=True, kw_only=True):
    """One path."""

    path: int
    experts: tuple[int, ...]
    version: int
    """That it is used with."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One run's checkpoint."""

    name: str
    run: str
    rounds: int
    paths: tuple[ListedPath, ...]
    modules: tuple[ListedModule, ...]


def listing(checkpoint: "Checkpoint") -> Listing:
    """Return what there is of a checkpoint."""
    from dipaco.protocol.topology import experts_of

    manifest, top = checkpoint.manifest, checkpoint.topology
    return Listing(
        name=manifest.name,
        run=checkpoint.run.id.hex(),
        rounds=manifest.training.rounds,
        paths=tuple(
            ListedPath(
                path=path,
                experts=experts_of(manifest.grid, path),
                version=checkpoint.version(path),
            )
            for path in range(manifest.paths)
        ),
        modules=tuple(
            ListedModule(
                module=each.module,
                version=each.version,
                newest=checkpoint.newest[each.module],
                paths=tuple(p for p, own in enumerate(checkpoint.paths) if each in own),
                bytes=top.state_bytes(each.module),
                here=checkpoint.states.has(each.digest),
                state=each.digest.hex(),
            )
            for each in checkpoint.modules()
        ),
    )


MAX_PATHS_NAMED = 6


def in_words(listed: Listing) -> str:
    """Return the listing for people."""
    here = sum(each.here for each in listed.modules)
    size = sum(each.bytes for each in listed.modules)
    versions = sorted({path.version for path in listed.paths})
    kept = "-".join(str(v) for v in dict.fromkeys((versions[0], versions[-1])))
    lines = [
        f"{listed.name}  {listed.run[:16]}  paths at version {kept} of {listed.rounds}, "
        f"{here} of {len(listed.modules)} states here, {size / 1e6:.1f} MB in all"
    ]
    for each in listed.modules:
        used = [str(path) for path in each.paths[:MAX_PATHS_NAMED]]
        more = ", ..." if len(each.paths) > MAX_PATHS_NAMED else ""
        newer = f" (newest {each.newest})" if each.newest > each.version else ""
        version = f"version {each.version}{newer}"
        lines.append(
            f"  {each.module:<10} {version:<23} {each.bytes / 1e6:8.2f} MB  "
            f"{'here' if each.here else 'not here':<8}  paths {', '.join(used)}{more}"
        )
    return "\n".join(lines)


@ckpt.command()
@click.argument("name", metavar="RUN")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["hf", "safetensors"]),
    help="hf: one path, as transformers loads it; safetensors: all modules, with an index.",
)
@click.option("--path", metavar="P", help="Of hf: an index, or experts such as 0,1.")
@checkpoint_options
def export(
    name: str, out: Path, form: str, path: str | None, at: int | None, home: str | None
) -> None:
    """Write a run's checkpoint for other software; all of it, or nothing.

    RUN is an id or name known to this node, a run file, or the folder of an exported bank.
    """
    if (form == "hf") != (path is not None):
        raise click.UsageError("--path: hf exports one path, safetensors all of them")
    from dipaco.cli.bars import progress_bar
    from dipaco.node.checkpoints import path_named
    from dipaco.node.data.tokenizers import tokenizer_file
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.node.training.bank import write_bank
    from dipaco.node.training.export import export_path

    folder = home_of(home)
    checkpoint = open_checkpoint(name, folder, at)
    chosen = None if path is None else path_named(checkpoint.manifest, path)
    bring_states(checkpoint, folder, None if chosen is None else (chosen,))
    tokenizer = tokenizer_file(checkpoint.manifest.tokenizer, BlobStore(Home.at(folder).blobs))
    with progress_bar(f"exporting {checkpoint.manifest.name}") as show:
        if chosen is None:
            write_bank(checkpoint, tokenizer, out, show)
            what = f"{len(checkpoint.modules())} modules"
        else:
            export_path(checkpoint, chosen, tokenizer, out, show)
            what = f"path {chosen} at version {checkpoint.version(chosen)}"
    click.echo(f"{out}: {checkpoint.manifest.name}, {what}")
