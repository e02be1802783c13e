"""What verbs print with `--json`, where no other module owns the type."""

import msgspec

Plain = str | int | float | bool | list[str]
"""The value of a setting as `config.toml` has it."""


class SettingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the configuration."""

    key: str
    """`section.name`."""
    value: Plain
    origin: str
    """`the command line`, a variable with its `$`, the file with the line, `the packaged defaults`
    or `default`."""


class ConfigAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `config show`: all settings that a node started now would have."""

    file: str
    """The home's configuration file, which may not exist."""
    settings: tuple[SettingAnswer, ...]


class ConfigFaults(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `config check`."""

    file: str
    faults: tuple[str, ...]
    """One line each, with the file's line where it is known; empty: the configuration is right."""


class ServiceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `service status`."""

    file: str
    """The unit or property list."""
    installed: bool
    enabled: bool
    """Whether it is started with the machine, or at log-in."""
    active: str
    """The service manager's word: `active`, `inactive`, `failed`, ..."""
    status: str
    """The node's state and reason; empty: the manager does not know."""
    last_exit: int
    """The exit code of the last process."""
