"""How `run follow` watches a run: in a home that is removed afterwards."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

from dipaco.cli.options import config_of
from dipaco.cli.views.following import Follower, head_text, round_text
from dipaco.node.config import NodeConfig
from dipaco.node.logs import logging_to
from dipaco.node.roles.follower import follow_from_outside
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.invitation import Invitation

LISTEN: Final = "/ip4/127.0.0.1/tcp/0"  # nobody has to reach one that only watches


def follow_run(name: str, bootstrap: tuple[str, ...], home: str | None, *, as_json: bool) -> None:
    """Print a line for each round of a run until it is over.

    Raises ConfigError, Unavailable, Refusal.
    """
    follower = Follower()
    first = True

    def told(record: RunRecord, connected: bool) -> None:
        nonlocal first
        seen = follower.news(record, time.monotonic(), connected=connected)
        if first and not as_json:
            click.echo(head_text(record))
        first = False
        if seen is not None:
            click.echo(msgspec.json.encode(seen).decode() if as_json else round_text(seen))

    seeds = bootstrap or tuple(map(str, config_of(home, {}).seeds))
    with tempfile.TemporaryDirectory(prefix="dipaco-follow-") as folder:
        config = _config(name, seeds, Path(folder))
        with logging_to(config.log):
            trio.run(partial(follow_from_outside, config, told))


def _config(name: str, seeds: tuple[str, ...], folder: Path) -> NodeConfig:
    """Return the configuration of a node that only watches; raises ConfigError."""
    flags: dict[str, object] = {"node.listen": [LISTEN], "log.level": "error", "ui.listen": ""}
    code = _code(name)
    flags["run.invitation" if code else "run.id"] = code or name
    if seeds:
        flags["node.bootstrap"] = list(seeds)
    config = config_of(str(folder), flags)
    if not config.seeds:
        raise ConfigError(
            "no peer to dial: give --bootstrap ADDR, or the code of an invitation as RUN"
        )
    return config


def _code(name: str) -> str:
    """Return a name that is the code of an invitation; empty if it is none."""
    try:
        return Invitation.parse(name).code
    except ValueError:
        return ""
