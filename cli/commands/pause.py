"""`dipaco-node pause`: asks the daemon to leave this machine alone; imports no network."""

import time

import click

from dipaco.cli.options import gpu_option, home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_pause
from dipaco.node.limits.moments import moment_text, parse_moment
from dipaco.node.quantities import parse_duration

MAX_SECONDS = 366 * 86400.0  # of a pause with an end: one for longer has none


@click.command()
@click.option("--for", "duration", metavar="DUR", help="As '2h' or '45 min' [until resume].")
@click.option("--until", metavar="TIME", help="As 18:00, or 'tomorrow 8:00' [until resume].")
@gpu_option
@home_option
@json_option
def pause(
    duration: str | None, until: str | None, gpu: int | None, home: str | None, as_json: bool
) -> None:
    """Stop work, hand back the lease, free the device; a restart does not end the pause."""
    now = time.time()
    end = _end(duration, until, now)
    if gpu is not None and end is not None:
        raise click.UsageError("a GPU is off until resume --gpu: leave --for and --until out")
    ordered = ask_pause(home_of(home), until=end, gpu=gpu)
    from dipaco.cli.views.order import ordered_text

    click.echo(json_text(ordered) if as_json else ordered_text(ordered, now))


def _end(duration: str | None, until: str | None, now: float) -> float | None:
    """Return the Unix time at which the pause ends; None: not by itself. Raises UsageError."""
    if duration is not None and until is not None:
        raise click.UsageError("give --for or --until, not both")
    try:
        if duration is not None:
            return now + _positive(parse_duration(duration))
        end = None if until is None else parse_moment(until, now)
    except ValueError as error:
        name = "--until" if duration is None else "--for"
        raise click.UsageError(f"{name}: {error}") from None
    if end is not None and end <= now:
        raise click.UsageError(
            f"--until {until}: {moment_text(end, now)} is in the past, it is "
            f"{moment_text(now, now)} now; name a later time, as 'tomorrow 8:00'"
        )
    return end


def _positive(seconds: float) -> float:
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError("a pause lasts more than no time and at most a year")
    return seconds
