"""The sources of a configuration: flag > environment > `config.toml` in the home > default.

An unknown key or `DIPACO_*` variable is an error that names the nearest known one. A size or rate
without a unit is an error too. Lists in the environment are separated by commas, hours by
semicolons. Each value keeps its origin, and every fault is found, not only the first.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from dipaco.node.config import (
    KEYS,
    PREFIX,
    SECRETS,
    SECTIONS,
    TEXT_LISTS,
    VALUES,
    VARIABLES,
    NodeConfig,
    contradictions,
    plain,
)
from dipaco.node.home_folder import HOME_VARIABLE
from dipaco.node.storage.toml import key_lines, read_text, tables_of
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.faults import nearest, refusal_of, shown
from dipaco.protocol.wire.text import one_line

FILE_NAME = "config.toml"
MAX_QUOTED = 200  # characters of a value in a message
COMMAND_LINE = "the command line"
PACKAGED = "the packaged defaults"
DEFAULT = "default"
HIDDEN = "(hidden)"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A configuration, and where each value that is no default came from."""

    config: NodeConfig
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """Return where the value of a key came from."""
        return self.origins.get(key, DEFAULT)

    def value(self, key: str) -> Any:
        """Return the value of a key."""
        section, _, name = key.partition(".")
        return getattr(getattr(self.config, section), name)

    def shown(self, key: str) -> Any:
        """Return the value of a key as its file has it; a secret is hidden."""
        value = plain(key, self.value(key))
        return HIDDEN if key in SECRETS and value else value


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a configuration is read from; the file may be another one at each reading."""

    home: Path
    named: Path | None = None
    """The file that a person named; None: `config.toml` in the home."""
    environ: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Key (`section.name`) to value; None stands for a flag that was not given."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Below the file, and above the built-in defaults."""
    text: str | None = None
    """Read in place of the file's text; None: the file's."""

    @property
    def file(self) -> Path:
        """The file that is read; the home's may not exist."""
        return self.named or self.home / FILE_NAME

    def settings(self) -> Settings:
        """Return the configuration; raises ConfigError with its first fault."""
        found, faults = self.read()
        if found is None:
            raise ConfigError(faults[0])
        return found

    def read(self) -> tuple[Settings | None, list[str]]:
        """Return the configuration and no fault, or None and every fault, each in one line."""
        faults: list[str] = []
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for key, value, origin, strict in self._layers(faults):
            try:
                values[key] = checked(key, value, origin, strict=strict)
                origins[key] = origin
            except ConfigError as error:
                faults.append(str(error))
        if faults:
            return None, faults
        return Settings(config=_built(self.home, values), origins=origins), []

    def _layers(self, faults: list[str]) -> Iterator[tuple[str, Any, str, bool]]:
        """Yield key, value, origin, and whether the value has a type; the weakest layer first."""
        for key, value in self.defaults.items():
            yield key, value, PACKAGED, True
        for key, value, origin in self._file_values(faults):
            yield key, value, origin, True
        for key, value, origin in _environment_values(self.environ, faults):
            yield key, value, origin, False
        for key, value in self.flags.items():
            if value is not None:
                yield key, value, COMMAND_LINE, False

    def _file_values(self, faults: list[str]) -> Iterator[tuple[str, Any, str]]:
        try:
            text = self.file_text() if self.text is None else self.text
            tables = tables_of(text, self.file)
        except ConfigError as error:
            faults.append(str(error))
            return
        lines = key_lines(text)

        def place(name: str) -> str:
            return f"{self.file}, line {lines[name]}" if name in lines else str(self.file)

        for section, table in tables.items():
            if not isinstance(table, dict):
                where = f"{one_line(section)} is outside any [section]; {_move(section)}"
                faults.append(f"{place(section)}: {where}")
                continue
            if section not in SECTIONS and not table:
                hint = nearest(section, SECTIONS)
                faults.append(f"{self.file}: unknown table [{one_line(section)}]{hint}")
            for name, value in table.items():
                key = f"{section}.{name}"
                if key in KEYS:
                    yield key, value, place(key)
                else:
                    faults.append(f"{place(key)}: unknown key {one_line(key)}{nearest_key(key)}")

    def file_text(self) -> str:
        """Return the text of the file, empty if there is none; raises ConfigError."""
        return read_text(self.file) if os.path.lexists(self.file) else ""


def load_config(
    *,
    home: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """Return the configuration of `Sources` of these fields; raises ConfigError.

    The error names the key and where its value came from.
    """
    sources = Sources(home=home, environ=environ, flags=flags, defaults=defaults or {})
    return sources.settings().config


def disk_bytes(home: Path) -> int:
    """Return the bytes of the disk that has, or will have, a home."""
    there = next(each for each in (home, *home.parents) if each.exists())
    return shutil.disk_usage(there).total


def check_together(config: NodeConfig) -> None:
    """Raise ConfigError for values that cannot hold together on this machine."""
    if found := contradictions(config, disk_bytes(config.home)):
        raise ConfigError(found[0])


def _built(home: Path, values: Mapping[str, Any]) -> NodeConfig:
    sections: dict[str, Any] = {}
    for section in msgspec.structs.fields(NodeConfig):
        if section.name != "home":
            given = {
                key.partition(".")[2]: value
                for key, value in values.items()
                if key.startswith(section.name + ".")
            }
            sections[section.name] = section.type(**given)
    return NodeConfig(home=home, **sections)


def _move(name: str) -> str:
    places = [key.partition(".")[0] for key in KEYS if key.endswith(f".{name}")]
    return f"move it below [{places[0]}]" if places else "move it into one"


def nearest_key(key: str) -> str:
    """Return `; did you mean ...?`: a key of this name in another section, else the nearest."""
    name = key.rpartition(".")[2]
    same = [known for known in KEYS if known.partition(".")[2] == name]
    return f"; did you mean {same[0]}?" if same else nearest(key, KEYS)


def _environment_values(
    environ: Mapping[str, str], faults: list[str]
) -> Iterator[tuple[str, Any, str]]:
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == HOME_VARIABLE:
            continue
        if name in VARIABLES:
            key = VARIABLES[name]
            yield key, split(key, value) if is_list(key) else value, f"${name}"
        else:
            hint = nearest(name, [*VARIABLES, HOME_VARIABLE])
            faults.append(f"unknown environment variable {name}{hint}")


def split(key: str, value: str) -> list[str]:
    """Return the entries of a list in one text."""
    separator = ";" if key == "when.hours" else ","  # `sat,sun` is one span
    return [part.strip() for part in value.split(separator) if part.strip()]


def is_list(key: str) -> bool:
    """Return whether the value of a key is a list."""
    return getattr(KEYS[key], "__origin__", None) is tuple


def checked(key: str, value: Any, origin: str, *, strict: bool) -> Any:
    """Return the value of a key as its type; raises ConfigError, which names `origin`.

    strict   whether a number must be one already, as in a file, or may be a text.
    """
    try:
        if key in TEXT_LISTS:
            texts = msgspec.convert(value, tuple[str, ...], strict=strict)
            return tuple(map(TEXT_LISTS[key], texts))
        if key == "run.id" and isinstance(value, str):
            value = split(key, value)  # one run needs no list
        read = VALUES[key](value) if key in VALUES else value
        return msgspec.convert(read, KEYS[key], strict=strict)
    except msgspec.ValidationError as error:
        words = refusal_of(error, value, tuple[str, ...] if key in TEXT_LISTS else KEYS[key])
    except ValueError as error:
        words = str(error)
    if value == "":
        words = "is empty; leave it out, or give it a value"
    if key == "run.id" and isinstance(value, list):
        words = re.sub(r"^\[\d+\]: the text ", "", words)
    words = words.removeprefix(f"{shown(value)} is ")  # which stands here already
    given = "" if isinstance(value, list | tuple) else f" = {ascii(value)[:MAX_QUOTED]}"
    raise ConfigError(f"{key}{given} ({origin}): {words}")  # the words name the entry of a list
