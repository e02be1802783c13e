"""Changes of `config.toml` that keep a person's comments and order."""

from dataclasses import replace
from typing import Any

from dipaco.node.settings import Sources, check_together
from dipaco.node.storage.files import PRIVATE, write_file
from dipaco.node.storage.toml import tables_of


def with_value(sources: Sources, key: str, value: Any) -> str:
    """Return the text of a home's configuration file with another value of one key.

    Raises ConfigError for a file that is no TOML.
    """
    import tomlkit  # here: only a change needs it

    text = sources.file_text()
    tables_of(text, sources.file)
    section, _, name = key.partition(".")
    document = tomlkit.parse(text)
    if section not in document:
        if text.strip():
            document.add(tomlkit.nl())
        document[section] = tomlkit.table()
    table: Any = document[section]
    table[name] = value
    return tomlkit.dumps(document)


def save_checked(sources: Sources, text: str) -> None:
    """Write a home's configuration file, unless the text is faulty by itself.

    Raises ConfigError with the first fault; the file is then untouched.
    """
    alone = replace(sources, text=text, environ={}, flags={})
    check_together(alone.settings().config)
    path = sources.file.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else PRIVATE
    write_file(path, text.encode(), mode=mode)
