"""`dipaco-node ckpt`: lists a run's modules, and exports them for other software."""

from pathlib import Path

import click

from dipaco.cli.inputs import fetch_states, open_checkpoint
from dipaco.cli.options import (
    Group,
    checkpoint_options,
    home_of,
    home_option,
    json_option,
    json_text,
)


@click.group(cls=Group)
def ckpt() -> None:
    """Checkpoints: list, export."""


@ckpt.command(name="list")
@click.argument("name", metavar="[RUN]", default="")
@home_option
@json_option
def list_(name: str, home: str | None, as_json: bool) -> None:
    """List the modules that each path is used with, and whether their states are here.

    RUN is an id or name known to this node, a run file, or the folder of an export [all runs that
    this node knows].
    """
    from dipaco.cli.views.checkpoint import listing, listing_text
    from dipaco.cli.views.layout import terminal_width
    from dipaco.node.runs.known import known_runs
    from dipaco.protocol.errors import Unavailable

    folder = home_of(home)
    names = [name] if name else [run.id.hex() for run in known_runs(folder)]
    if not names:
        click.echo(f"{folder} knows no run: join one with dipaco-node start", err=True)
    for each in names:
        try:
            listed = listing(open_checkpoint(each, folder, None))
        except Unavailable as error:
            if name:
                raise
            click.echo(str(error), err=True)
            continue
        click.echo(json_text(listed) if as_json else listing_text(listed, terminal_width()))


@ckpt.command()
@click.argument("name", metavar="RUN")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["hf", "safetensors"]),
    help="hf: one path, for transformers; safetensors: all modules, with an index.",
)
@click.option("--path", metavar="P", help="Path of hf: an index, or experts such as 0,1.")
@checkpoint_options
def export(
    name: str, out: Path, form: str, path: str | None, at: int | None, home: str | None
) -> None:
    """Write a run's checkpoint for other software. The folder is written whole or not at all.

    RUN is an id or name known to this node, a run file, or the folder of an export.
    """
    if (form == "hf") != (path is not None):
        raise click.UsageError("--path: give it with --format hf; safetensors exports all paths")
    from dipaco.cli.views.progress import job_display
    from dipaco.node.data.tokenizers import tokenizer_file
    from dipaco.node.models.export import export_path
    from dipaco.node.models.module_export import write_module_export
    from dipaco.node.runs.checkpoint import path_named
    from dipaco.node.storage.blobs import BlobStore
    from dipaco.node.storage.files import Home
    from dipaco.protocol.numbers import count

    folder = home_of(home)
    checkpoint = open_checkpoint(name, folder, at)
    chosen = None if path is None else path_named(checkpoint.manifest, path)
    fetch_states(checkpoint, folder, None if chosen is None else (chosen,))
    tokenizer = tokenizer_file(checkpoint.manifest.tokenizer, BlobStore(Home.at(folder).blobs))
    with job_display(f"exporting {checkpoint.manifest.name}") as show:
        if chosen is None:
            write_module_export(checkpoint, tokenizer, out, show)
            what = count(len(checkpoint.modules()), "module")
        else:
            export_path(checkpoint, chosen, tokenizer, out, show)
            what = f"path {chosen} at version {checkpoint.version(chosen)}"
    click.echo(f"{out}: {checkpoint.manifest.name}, {what}")
