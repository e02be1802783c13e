"""`dipaco-node completion`: prints the script with which a shell completes command lines."""

import click
from click.shell_completion import get_completion_class

from dipaco.protocol.errors import LocalProtocolError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell's completion script: eval "$(dipaco-node completion bash)"."""
    root = context.find_root()
    kind = get_completion_class(shell)
    if kind is None or root.info_name is None:
        raise LocalProtocolError(f"click completes no {shell}")
    variable = f"_{root.info_name}_complete".replace("-", "_").upper()  # the one that click reads
    click.echo(kind(root.command, {}, root.info_name, variable).source())
