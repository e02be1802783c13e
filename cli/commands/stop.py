"""`dipaco-node stop`: asks the daemon that runs in a home; imports no network."""

import click

from dipaco.cli.options import home_of, home_option
from dipaco.node.api.client import ask_stop


@click.command()
@home_option
@click.option("--now", is_flag=True, help="At once, without handing back the lease.")
@click.option("--restart", is_flag=True, help="End with 75: a service is started again.")
def stop(home: str | None, now: bool, restart: bool) -> None:
    """Ask the daemon to hand back its lease and leave."""
    ask_stop(home_of(home), now=now, restart=restart)
    click.echo("stopping")
