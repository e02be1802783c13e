"""The port of the local API, and the token that its clients show."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from dipaco.node.config import NodeConfig
from dipaco.node.storage.files import PRIVATE, Home, read_file, translated, write_file
from dipaco.protocol.errors import ConfigError

TOKEN_BYTES = 32  # of chance: nobody guesses it
LEAST_TOKEN, MAX_TOKEN = 16, 128  # characters of one that a person sets


@dataclass(frozen=True)
class Port:
    """Where the API listens besides the socket."""

    host: str
    """A name or address of this machine alone."""
    port: int
    """0: any free one."""
    token: str


def port_of(config: NodeConfig, home: Home) -> Port | None:
    """Return the port that the configuration asks for; None: it asks for none. Raises ConfigError.

    The token is that of the configuration, else the one in the home, which is made if there is
    none.
    """
    if not config.ui.listen:
        return None
    host, _, port = config.ui.listen.rpartition(":")
    return Port(host.strip("[]"), int(port), config.ui.token or token_in(home.token))


def token_in(path: Path) -> str:
    """Return the token in the file `path`, which is made if there is none (mode 0600).

    Raises ConfigError for a file that others can read, or that holds no token.
    """
    if not path.exists():
        write_file(path, f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode(), mode=PRIVATE)
    with translated(path, "read"):
        mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:04o}: make it 0600, it holds the page's token")
    data = read_file(path, limit=MAX_TOKEN + 1).strip()
    token = data.decode("ascii", "replace")
    if not (LEAST_TOKEN <= len(token) <= MAX_TOKEN and token.isascii() and token.isprintable()):
        raise ConfigError(f"{path} holds no token: remove it, then start makes a new one")
    return token
