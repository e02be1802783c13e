"""Options that several commands share, and how flags become a `NodeConfig`."""

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from dipaco.node.config import NodeConfig, home_folder, load_config

SEED_HELP = "Seed of the keys of owner and rendezvous node, which are not secret [0]."

F = TypeVar("F", bound=Callable[..., Any])


class Group(click.Group):
    """A group of commands: alone it prints its help, and a mistyped command gets the nearest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help and end with 0 if there is no argument at all."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names; raises NoSuchCommand."""
        known = self.list_commands(ctx)
        if args[0] not in known and args[0][:1] != "-" and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=known, ctx=ctx)
        return super().resolve_command(ctx, args)


def json_text(value: object) -> str:
    """Return `value` as JSON in ASCII, which holds file names that are no text as well."""
    return json.dumps(msgspec.to_builtins(value))


def home_option(command: F) -> F:
    """Add `--home DIR`."""
    return click.option(
        "--home", metavar="DIR", help="Home folder [$DIPACO_HOME, ~/.local/share/dipaco-node]."
    )(command)


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def checkpoint_options(command: F) -> F:
    """Add `--home DIR` and `--at V`."""
    at = click.option(
        "--at",
        type=click.IntRange(0),
        metavar="V",
        help="All modules at this version; 0: the seed model [the one each path is used at].",
    )
    return home_option(at(command))


def device_option(command: F) -> F:
    """Add `--device D`."""
    help_text = "auto, cpu, cuda:N or mps [as configured]."
    return click.option("--device", metavar="D", help=help_text)(command)


def home_of(flag: str | None) -> Path:
    """Return the home folder: flag, else environment, else the default."""
    return home_folder(flag, os.environ)


def config_of(home: str | None, flags: Mapping[str, Any]) -> NodeConfig:
    """Return the configuration of `home`, overridden by `flags`; raises ConfigError."""
    return load_config(
        home=home_of(home),
        environ=os.environ,
        flags=flags,
        defaults={"node.bootstrap": packaged_peers()},
    )


def packaged_peers() -> tuple[str, ...]:
    """Return the peers of the packaged bootstrap.toml."""
    table = tomllib.loads(Path(__file__).with_name("bootstrap.toml").read_text("utf-8"))
    return tuple(table["peers"])
