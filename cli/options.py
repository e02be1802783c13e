"""Options that several commands share, and how flags become a `NodeConfig`.

Commands that only ask the daemon import this too, so what reads a configuration is imported late.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from dipaco.node.api.values import MAX_GPU
from dipaco.node.home_folder import home_folder
from dipaco.protocol.errors import ConfigError

if TYPE_CHECKING:
    from dipaco.node.config import NodeConfig
    from dipaco.node.settings import Sources

PACKAGED = Path(__file__).with_name("bootstrap.toml")
CONFIG_FILE = "dipaco.config_file"  # a key of click's context: the file of --config
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


class DeviceName(click.ParamType[str]):
    """The name of a device, checked before any work."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; raises BadParameter with the possible ones."""
        from dipaco.node.config import Device

        try:
            return msgspec.convert(value, Device)
        except msgspec.ValidationError:
            self.fail(f"{value!r} is none of auto, cpu, cuda, cuda:N and mps", param, ctx)


class OutFile(click.Path):
    """A file to write at the end of the work; its folder must exist before it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path; raises BadParameter."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{str(path.parent)!r} is no folder", param, ctx)
        return path


def json_text(value: object) -> str:
    """Return `value` as JSON in ASCII, which holds file names that are no text as well."""
    return json.dumps(msgspec.to_builtins(value))


def parameter_of(key: str) -> str:
    """Return the name of the parameter of `start` that sets a key; its flag has dashes.

    `ui.token` has none: other users of a machine can read its command lines.
    """
    section, _, name = key.partition(".")
    if section in ("log", "ui", "metrics"):  # level, file, listen: too short alone
        return f"{section}_{name}"
    return {"run.id": "run", "run.signers": "signer"}.get(key, name)


def home_option(command: F) -> F:
    """Add `--home DIR`."""
    return click.option(
        "--home", metavar="DIR", help="Home folder [$DIPACO_HOME, ~/.local/share/dipaco-node]."
    )(command)


def gpu_option(command: F) -> F:
    """Add `--gpu N`."""
    return click.option(
        "--gpu", type=click.IntRange(0, MAX_GPU), metavar="N", help="The GPU cuda:N alone."
    )(command)


def config_option(command: F) -> F:
    """Add `--config FILE`; `sources_of` then reads that file."""

    def keep(ctx: click.Context, _option: click.Parameter, file: Path | None) -> None:
        ctx.meta[CONFIG_FILE] = file.absolute() if file else None

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=keep,
        help="Configuration file [config.toml in the home].",
    )(command)


def config_file() -> Path | None:
    """Return the file of `--config`; None: it was not given."""
    context = click.get_current_context(silent=True)
    return context.meta.get(CONFIG_FILE) if context else None


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
    return click.option("--device", type=DeviceName(), metavar="D", help=help_text)(command)


def home_of(flag: str | None) -> Path:
    """Return the home folder: flag, else environment, else the default; raises ConfigError."""
    home = home_folder(flag, os.environ)
    try:
        there = next(each for each in (home, *home.parents) if each.exists())
        in_the_way = None if there.is_dir() else there
    except OSError:  # in a folder that may not be read: whoever uses the home says so
        in_the_way = None
    if in_the_way:
        raise ConfigError(f"home: {in_the_way} is not a folder: choose another --home")
    return home


def config_of(home: str | None, flags: Mapping[str, Any]) -> "NodeConfig":
    """Return the configuration of `home`, overridden by `flags`; raises ConfigError."""
    return sources_of(home, flags).settings().config


def sources_of(home: str | None, flags: Mapping[str, Any]) -> "Sources":
    """Return what the configuration of `home` is read from; raises ConfigError."""
    from dipaco.node.settings import Sources

    return Sources(
        home=home_of(home),
        named=config_file(),
        environ=os.environ,
        flags=flags,
        defaults={"node.bootstrap": packaged_peers()},
    )


def packaged_peers(path: Path = PACKAGED) -> tuple[str, ...]:
    """Return the peers of the packaged bootstrap.toml; raises ConfigError if it was spoiled."""
    from dipaco.node.storage.toml import read_toml

    peers = read_toml(path).get("peers")
    if not isinstance(peers, list) or not all(isinstance(peer, str) for peer in peers):
        raise ConfigError(f"{path}: peers: not a list of addresses in quotes")
    return tuple(peers)


def check_utf8(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raise UsageError for an argument or a variable of ours that is not UTF-8.

    Python keeps such bytes as lone surrogates, which no tokenizer, JSON or peer accepts.
    """
    given = {f"argument {place}": text for place, text in enumerate(arguments, 1)}
    given |= {name: text for name, text in environ.items() if name.startswith("DIPACO_")}
    for name, text in given.items():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise click.UsageError(f"{name}: {_not_utf8(text, error.start)}") from None


def _not_utf8(text: str, start: int) -> str:
    """Return the reason why `text` has a lone surrogate at `start`, and what to do."""
    shown = ascii(text[max(start - 20, 0) : start + 20]).replace("\\udc", "\\x")
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return f"{shown} is not UTF-8"
    return f"{shown} is UTF-8, but the locale is not: set LC_ALL=C.UTF-8, and unset PYTHONUTF8"
