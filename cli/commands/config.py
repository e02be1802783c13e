"""`dipaco-node config`: shows, checks and changes the configuration of a home."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import Group, config_option, home_option, json_option, json_text, sources_of
from dipaco.protocol.errors import ConfigError

if TYPE_CHECKING:
    from dipaco.cli.answers import SettingAnswer
    from dipaco.node.settings import Settings, Sources

EDITORS = ("VISUAL", "EDITOR")
"""Variables that name the person's editor."""


@click.group(cls=Group)
def config() -> None:
    """The configuration: show, get, set, edit, path, check."""


@config.command()
@home_option
@config_option
@json_option
def show(home: str | None, as_json: bool) -> None:
    """Print every setting with its origin, and where a running daemon has another value."""
    from dipaco.cli.answers import ConfigAnswer
    from dipaco.cli.views.layout import show_text

    sources = sources_of(home, {})
    found = _answers(sources.settings(), _running(sources.home))
    if as_json:
        click.echo(json_text(ConfigAnswer(file=str(sources.file), settings=found)))
        return
    show_text("\n".join(_lines(found)))


def _running(home: Path) -> dict[str, Any]:
    """Return the values that the daemon of a home runs with, by key; none if there is no daemon."""
    from dipaco.node.api.client import ask_config
    from dipaco.node.api.values import NoDaemon

    try:
        return {each.key: each.value for each in ask_config(home).settings}
    except NoDaemon:
        return {}


def _answers(settings: "Settings", running: dict[str, Any]) -> "tuple[SettingAnswer, ...]":
    from dipaco.node.config import KEYS

    return tuple(_answer(settings, key, running) for key in KEYS)


def _answer(settings: "Settings", key: str, running: dict[str, Any]) -> "SettingAnswer":
    from dipaco.cli.answers import SettingAnswer

    return SettingAnswer(
        key=key,
        value=settings.shown(key),
        origin=settings.origin(key),
        running=running.get(key),
    )


def _lines(found: "tuple[SettingAnswer, ...]") -> list[str]:
    lines: list[str] = []
    section = ""
    for each in found:
        table, _, name = each.key.partition(".")
        if table != section:
            lines += [""] * bool(lines) + [f"[{table}]"]
            section = table
        line = f"{f'{name} = {_written(each.value)}':<40}  {each.origin}"
        if each.running not in (None, each.value):
            line += f"; the daemon runs with {_written(each.running)}"
        lines.append(line)
    return lines


def _written(value: Any) -> str:
    """Return a value as TOML."""
    import json

    return json.dumps(value)  # TOML writes texts, numbers, yes, no and lists of texts alike


@config.command()
@click.argument("key")
@home_option
@config_option
@json_option
def get(key: str, home: str | None, as_json: bool) -> None:
    """Print the value of KEY, such as network.max_up."""
    from dipaco.cli.answers import SettingAnswer
    from dipaco.node.config import plain

    _check_key(key)
    settings = sources_of(home, {}).settings()
    value = plain(key, settings.value(key))
    if as_json:
        click.echo(json_text(SettingAnswer(key=key, value=value, origin=settings.origin(key))))
    else:
        click.echo("\n".join(value) if isinstance(value, list) else _printed(value))


def _printed(value: Any) -> str:
    return value if isinstance(value, str) else _written(value)


def _check_key(key: str) -> None:
    from dipaco.node.config import KEYS
    from dipaco.node.settings import nearest_key

    if key not in KEYS:
        raise ConfigError(f"unknown key {key}{nearest_key(key)}")


@config.command("set")
@click.argument("key")
@click.argument("values", metavar="VALUE...", nargs=-1, required=True)
@home_option
@config_option
@json_option
def set_(key: str, values: tuple[str, ...], home: str | None, as_json: bool) -> None:
    """Give KEY another value in config.toml; comments stay.

    A list takes several values. A wrong value is refused, and the file stays as it was.
    """
    from dipaco.node.config import VALUES
    from dipaco.node.config_file import save_checked, with_value
    from dipaco.node.settings import COMMAND_LINE, checked

    _check_key(key)
    sources = sources_of(home, {})
    given = _given(key, values)
    value = checked(key, given, COMMAND_LINE, strict=False)
    number = isinstance(value, bool | int | float) and key not in VALUES  # those have units
    save_checked(sources, with_value(sources, key, value if number else given))
    settings = sources.settings()
    if as_json:
        click.echo(json_text(_answer(settings, key, _running(sources.home))))
        return
    if not settings.origin(key).startswith(str(sources.file)):
        click.echo(f"{key} stays as {settings.origin(key)} has it, which comes first", err=True)


def _given(key: str, values: tuple[str, ...]) -> str | list[str]:
    """Return the value of a key as the command line gives it; raises ConfigError."""
    from dipaco.node.settings import is_list, split

    if key == "when.hours" or (is_list(key) and len(values) > 1):
        return [value for value in values if value]
    if is_list(key):
        return split(key, values[0])
    if len(values) > 1:
        raise ConfigError(f"{key} takes one value: put it into quotes")
    return values[0]


@config.command()
@home_option
@config_option
def path(home: str | None) -> None:
    """Print the name of the configuration file."""
    click.echo(sources_of(home, {}).file)


@config.command()
@home_option
@config_option
@json_option
def check(home: str | None, as_json: bool) -> int:
    """Print every fault of the configuration; ends with 0, or 2 if there is one."""
    from dipaco.cli.answers import ConfigFaults

    sources = sources_of(home, {})
    faults = _faults(sources)
    if as_json:
        click.echo(json_text(ConfigFaults(file=str(sources.file), faults=tuple(faults))))
    else:
        click.echo("\n".join(faults) or f"{sources.file}: right")
    return Exit.USAGE if faults else Exit.OK


def _faults(sources: "Sources") -> list[str]:
    from dipaco.node.config import contradictions
    from dipaco.node.settings import disk_bytes

    settings, faults = sources.read()
    if settings is None:
        return faults
    return contradictions(settings.config, disk_bytes(sources.home))


@config.command()
@home_option
@config_option
def edit(home: str | None) -> None:
    """Open config.toml in $VISUAL or $EDITOR; a faulty text is refused and kept aside."""
    from dipaco.node.config_file import save_checked
    from dipaco.node.storage.toml import read_text

    sources = sources_of(home, {})
    sources.home.mkdir(parents=True, exist_ok=True)
    draft = sources.file.with_suffix(".draft.toml")
    if not draft.exists():  # the text that was refused the last time
        draft.touch(mode=0o600)
        draft.write_text(sources.file_text(), encoding="utf-8")
    _open_editor(draft)
    try:
        save_checked(sources, read_text(draft))
    except ConfigError as error:
        raise ConfigError(f"{error}; {sources.file} is unchanged, {draft} has your text") from None
    draft.unlink()


def _open_editor(file: Path) -> None:
    """Wait for a person's editor; raises ConfigError."""
    editor = next((os.environ[name] for name in EDITORS if os.environ.get(name)), "vi")
    try:
        done = subprocess.run([*shlex.split(editor), str(file)], check=False)
    except OSError as error:
        raise ConfigError(f"cannot run {editor} ({error.strerror}): set $EDITOR") from None
    if done.returncode:
        raise ConfigError(f"{editor} ended with {done.returncode}; nothing is changed")
