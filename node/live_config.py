"""The configuration of a running daemon: read again when a person changed the file."""

import json
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from dipaco.node.config import KEYS, SECTIONS, NodeConfig, plain
from dipaco.node.settings import Settings, Sources
from dipaco.protocol.errors import ConfigError

LIVE: Final = frozenset(
    {"log.level", "compute.max_temp_c", "storage.min_free"}
    | {key for key in KEYS if key.startswith(("when.", "network."))}
)
"""The keys whose new values a running daemon takes up; the others need a restart."""


@dataclass(frozen=True, kw_only=True)
class Reread:
    """The outcome of reading the file again."""

    fault: str = ""
    """Why the new file is not taken; empty: it is."""
    taken: tuple[str, ...] = ()
    """`key = value` of what holds from now on."""
    waiting: tuple[str, ...] = ()
    """The keys that hold from the next start on."""

    def __str__(self) -> str:
        if self.fault:
            return f"the changed configuration is not taken, the old one goes on: {self.fault}"
        parts = [", ".join(self.taken)] if self.taken else []
        if self.waiting:
            parts.append(f"needs a restart: {', '.join(self.waiting)}")
        return f"the configuration was read again: {'; '.join(parts) or 'no value changed'}"


class LiveConfig:
    """Holds the settings that a daemon runs with, and what they are read from."""

    def __init__(self, sources: Sources) -> None:
        """Read the settings; raises ConfigError."""
        self._sources = sources
        self._text = sources.file_text()
        self.settings: Settings = replace(sources, text=self._text).settings()
        """Those that the daemon runs with: a key that needs a restart keeps its old value."""

    @property
    def config(self) -> NodeConfig:
        """The configuration that the daemon runs with."""
        return self.settings.config

    @property
    def changed(self) -> bool:
        """Whether the file differs from the one that was read last."""
        try:
            return self._sources.file_text() != self._text
        except ConfigError:  # it can no longer be read
            return True

    def read_again(self) -> Reread:
        """Take up what changed in the file, as far as a running daemon can; never raises."""
        try:
            text = self._sources.file_text()
            new = replace(self._sources, text=text).settings()
        except ConfigError as error:
            return Reread(fault=str(error))
        old, self._text = self.settings, text
        different = [key for key in KEYS if new.value(key) != old.value(key)]
        taken = [key for key in different if key in LIVE]
        self.settings = _with(old, new, frozenset(taken))
        return Reread(
            taken=tuple(f"{key} = {_written(key, new)}" for key in taken),
            waiting=tuple(key for key in different if key not in LIVE),
        )


def _with(old: Settings, new: Settings, keys: frozenset[str]) -> Settings:
    """Return the old settings with the new values of `keys`."""
    sections = {}
    for section in SECTIONS:
        names = [key.partition(".")[2] for key in keys if key.startswith(f"{section}.")]
        values = {name: new.value(f"{section}.{name}") for name in names}
        sections[section] = msgspec.structs.replace(getattr(old.config, section), **values)
    origins = {key: new.origin(key) if key in keys else old.origin(key) for key in KEYS}
    return Settings(config=msgspec.structs.replace(old.config, **sections), origins=origins)


def _written(key: str, settings: Settings) -> str:
    return json.dumps(plain(key, settings.value(key)))  # as the file would have it
