"""Options that several commands share, and how flags become a `NodeConfig`."""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from dipaco.node.config import NodeConfig, home_folder, load_config

SEED_HELP = "Seed of the keys of owner and rendezvous node, which are not secret [0]."

F = TypeVar("F", bound=Callable[..., Any])


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
