"""`dipaco-node version`: prints versions of this program and of libraries that affect results."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click
import msgspec

from dipaco.cli.answers import VersionAnswer
from dipaco.cli.options import json_option, json_text
from dipaco.protocol.run.manifest import FORMAT


def own_version() -> str:
    """Return this program's version, `source` if it is not installed."""
    return _version("dipaco-node") or "source"


def _version(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions of this program, the manifest format, Python and libraries."""
    table = {
        "dipaco-node": own_version(),
        "manifest format": str(FORMAT),
        "python": platform.python_version(),
    } | {name: _version(name) or "missing" for name in ("torch", "libp2p", "numpy", "tokenizers")}
    if as_json:
        click.echo(json_text(msgspec.convert(table, VersionAnswer)))
    else:
        click.echo("\n".join(f"{name:<16} {value}" for name, value in table.items()))
