"""Who may use the local API over TCP: whoever shows the token, from this node's page or from none.

Every program of this machine can connect to a port of it, and so can a script of any web page that
a person opens. Three checks keep them out, in this order: Host against a foreign name that was made
to point here (DNS rebinding), Origin against the script of another page, and the token.
"""

import hmac
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from dipaco.node.api.connection import Refused, Request
from dipaco.node.page.files import FILES

HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine; the port is any, since a person may forward one from elsewhere."""


class Access:
    """Decides whether a request that came over TCP is answered."""

    def __init__(self, token: str | None) -> None:
        """Ask for a token; None: none is needed, Host and Origin are enough."""
        self._token = token.encode() if token is not None else None

    def check(self, request: Request) -> bool:
        """Return whether the request shows the token; raises Refused unless it may be answered.

        The files of the page need no token: they hold nothing of a node, and without them nobody
        could be told how to get one.
        """
        host = request.headers.get("host", "")
        if _name(host) not in HOSTS:
            text = f"this node is not called {host[:80]}: ask it at 127.0.0.1 or localhost"
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, text)
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            raise Refused(HTTPStatus.FORBIDDEN, "requests of other pages are not answered")
        if self._token is None:
            return True
        if request.path in FILES and request.method in ("GET", "HEAD"):
            return False
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(shown.strip().encode(), self._token)
        if kind.lower() != "bearer" or not right:
            text = "the token is missing or wrong: send it as Authorization: Bearer TOKEN"
            raise Refused(HTTPStatus.UNAUTHORIZED, text, [("WWW-Authenticate", "Bearer")])
        return True


def _name(host: str) -> str | None:
    """Return the name in a Host header without its port; None if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError for one that is no number
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and "@" not in host else None
