"""`dipaco-node finish`: lets the lease in hand end, then pauses; imports no network."""

import time

import click

from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_finish


@click.command()
@home_option
@json_option
def finish(home: str | None, as_json: bool) -> None:
    """End the lease in hand, then pause; the daemon stays."""
    ordered = ask_finish(home_of(home))
    from dipaco.cli.views.order import ordered_text

    click.echo(json_text(ordered) if as_json else ordered_text(ordered, time.time()))
