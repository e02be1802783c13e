"""`dipaco-node why`: the reasons for what the node does, or did at a moment; imports no network."""

import time

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_why
from dipaco.node.limits.moments import moment_text, parse_moment


@click.command()
@click.option("--at", metavar="TIME", help="As 14:05, 'yesterday 14:05' or '2h ago' [now].")
@home_option
@json_option
def why(at: str | None, home: str | None, as_json: bool) -> int:
    """Say why the node does what it does, or did at a moment of the last 30 days.

    Ends with 1 if nothing is known of the moment.
    """
    found = ask_why(home_of(home), at=_moment(at, time.time()))
    from dipaco.cli.views.layout import fitted, terminal_width
    from dipaco.cli.views.order import why_text

    click.echo(json_text(found) if as_json else fitted(why_text(found), terminal_width(), hang=2))
    return Exit.ERROR if found.since is None else Exit.OK


def _moment(at: str | None, now: float) -> float | None:
    if at is None:
        return None
    try:
        moment = parse_moment(at, now)
    except ValueError as error:
        raise click.UsageError(f"--at: {error}") from None
    if moment > now:
        raise click.UsageError(f"--at {at}: {moment_text(moment, now)} is still to come")
    return moment
