"""Who may use the local API over TCP: whoever shows the token, from this node's page or from none.

Every program of this machine can connect to a port of it, and so can a script of any web page that
a person opens. Three checks keep them out, in this order: Host against a foreign name that was made
to point here (DNS rebinding), Origin against the script of another page, and the token.
"""

import hmac
import os
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dipaco.node.api.connection import Refused, Request
from dipaco.node.storage.files import PRIVATE, read_file, translated, write_file
from dipaco.protocol.errors import ConfigError

HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine; the port is any, since a person may forward one from elsewhere."""
TOKEN_BYTES = 32  # of chance: nobody guesses it
MAX_TOKEN = 256  # characters of one that a person sets
LEAST_TOKEN = 16  # the same


class Access:
    """Decides whether a request that came over TCP is answered."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def check(self, request: Request) -> None:
        """Raise Refused unless the request may be answered."""
        host = request.headers.get("host", "")
        if _name(host) not in HOSTS:
            text = f"this node is not called {host[:80]}: ask it at 127.0.0.1 or localhost"
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, text)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise Refused(HTTPStatus.FORBIDDEN, "requests of other pages are not answered")
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode(), self._token)
        if kind.lower() != "bearer" or not right:
            text = "the token is missing or wrong: send it as Authorization: Bearer TOKEN"
            raise Refused(HTTPStatus.UNAUTHORIZED, text, [("WWW-Authenticate", "Bearer")])


def _name(host: str) -> str | None:
    """Return the name in a Host header without its port; None if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError for one that is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None


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
