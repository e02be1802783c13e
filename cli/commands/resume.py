"""`dipaco-node resume`: takes back `pause` and `finish`; imports no network."""

import time

import click

from dipaco.cli.options import gpu_option, home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_resume


@click.command()
@gpu_option
@home_option
@json_option
def resume(gpu: int | None, home: str | None, as_json: bool) -> None:
    """Work again after pause, finish or start --paused."""
    ordered = ask_resume(home_of(home), gpu=gpu)
    from dipaco.cli.views.order import ordered_text

    click.echo(json_text(ordered) if as_json else ordered_text(ordered, time.time()))
