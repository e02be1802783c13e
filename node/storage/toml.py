"""TOML files that people write: read whole, and a mistake told in one line.

A file with a byte order mark is read too: some editors write one.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from dipaco.node.storage.files import read_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.faults import shown

MAX_FILE = 1 << 20  # bytes; a full run or configuration has 3 KB

_PLAINER = {  # tomllib's words for what people do most often
    r"Cannot overwrite a value": "this key is there twice",
    r"Cannot declare .* twice": "this table is there twice",
    r"Cannot mutate immutable namespace .*": "this table was complete already",
    r"Invalid value": "no value: a text stands in quotes, a list in [ ], a yes or no is true or "
    "false",
    r"Expected ['\"]+$|Illegal character '.n'": "a text without its closing quotes",
    r"Invalid statement": "neither `key = value` nor `[table]`",
}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raises ConfigError, which names the line at fault."""
    return tables_of(read_text(path), path)


def read_text(path: Path) -> str:
    """Return the text of a file that a person wrote; raises ConfigError."""
    data = read_file(path, limit=MAX_FILE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None


def tables_of(text: str, path: Path) -> dict[str, Any]:
    """Return the tables of the text of a TOML file; raises ConfigError, which names the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}, {_fault(str(error), text)}") from None
    except (ValueError, RecursionError):  # of a number of 5,000 digits, or 1,000 brackets
        raise ConfigError(f"{path}: not valid TOML: a number or a nesting is too long") from None


def _fault(message: str, text: str) -> str:
    """Return `line 3: reason: the text of the line` for tomllib's message."""
    lines = text.split("\n")
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.S)
    reason = found[1] if found else message
    number = int(found[2]) if found and found[2] else len(lines)
    for pattern, plainer in _PLAINER.items():
        reason = re.sub(pattern, plainer, reason, flags=re.S)
    line = shown(lines[number - 1].strip()).removeprefix("the text ")
    return f"line {number}: {reason}: {line}"


def key_lines(text: str) -> dict[str, int]:
    """Return the number of the line on which each `table.key` or top key begins, for messages.

    It reads the usual ways of writing; another one (an inline table) has no line.
    """
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = f"{header[1]}."
        elif key := re.match(r"\s*([\w-]+(?:\.[\w-]+)*)\s*=", line):
            lines.setdefault(table + key[1], number)
    return lines
