"""One file over HTTPS: where a run may send us for it, and its bytes from an offset on.

A manifest from the network may name any address, so: https alone, with the certificate checked, in
redirects too; no user or password in it; and no machine of the volunteer's own network, unless the
operator allows that (`run.local_sources`). Nothing of an address becomes a path of ours.
"""

import http.client
import ipaddress
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import IO
from urllib.parse import urlsplit

from dipaco.node.data.patience import Broken
from dipaco.protocol.errors import Refusal, Unavailable

PREFIX = "https://"
TIMEOUT = 30.0  # seconds without a byte
PIECE = 1 << 18  # bytes
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


def check_url(url: str, *, private: bool) -> None:
    """Raise Refusal for an address that no run may name.

    private   whether machines of this network, and this one, are allowed.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refusal(f"source.files: {url!r}: {error}") from error
    if parts.scheme != "https" or not host or not url.isascii() or not url.isprintable():
        raise Refusal(f"source.files: {url!r}: not an https address")
    if parts.username is not None or parts.password is not None or parts.fragment or " " in url:
        raise Refusal(f"source.files: {url!r}: an address is scheme, host, path and query alone")
    if not private and not _is_public(host):
        raise Refusal(
            f"source.files: {url!r}: of this machine's own network; only the operator can allow "
            "that (run.local_sources)"
        )


def _is_public(host: str) -> bool:
    """Whether a host is of the internet by its name; certificates keep names honest."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2].lower()
        numeric = last.isdigit() or last.startswith("0x")  # 127.1, 0x7f000001
        return "." in host and not numeric and last not in ("localhost", "local", "internal")


class HttpsFile:
    """A file of an address, opened anew for every attempt."""

    def __init__(self, url: str, *, private: bool, size: int | None = None) -> None:
        """size: of the file, in bytes, where it is known; raises Refusal for a bad address."""
        check_url(url, private=private)
        self._url, self._size = url, size
        self._opener = _opener(private)

    def pieces(self, start: int) -> Iterator[bytes]:
        """Yield the bytes from `start` on; raises Broken, Unavailable for what will not pass."""
        came = 0
        try:
            with self._open(start) as response:
                left = self._left(response, start)
                skip = start if response.status == 200 else 0  # the server knows no ranges
                while piece := response.read(PIECE):
                    came += len(piece)
                    useful = piece[skip:]
                    skip -= len(piece) - len(useful)
                    if useful:
                        yield useful
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_words(error), some=came > 0) from error
        if left is not None and came < left:  # read() says nothing of a connection that was cut
            raise Broken(f"the connection ended after {came} of {left} bytes", some=came > 0)

    def _open(self, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "dipaco-node", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(self._url, headers=headers)
        try:
            response: http.client.HTTPResponse = self._opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in PASSING:
                    wait = retry_after(error.headers.get("Retry-After"))
                    raise Broken(f"the server says {error.code}", retry_after=wait) from error
                raise Unavailable(
                    f"source.files: {self._url}: the server says {error.code} {error.reason}"
                ) from error
        return response

    def _left(self, response: http.client.HTTPResponse, start: int) -> int | None:
        """How many bytes are to come, if it is said; another length than pinned is no use."""
        if response.status == 206:
            said = response.headers.get("Content-Range", "")
            if not said.startswith(f"bytes {start}-"):
                raise Unavailable(f"source.files: {self._url}: another range came than asked for")
        if response.length is None:
            return None
        whole = response.length + (start if response.status == 206 else 0)
        if self._size is not None and whole != self._size:
            raise Unavailable(
                f"source.files: {self._url}: {whole} bytes where the run pins {self._size}"
            )
        return response.length


def retry_after(said: str | None) -> float:
    """Return the seconds that a Retry-After header asks for: 0 if there is none."""
    if not said:
        return 0.0
    if said.strip().isdigit():
        return float(said.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to where a run might have sent us by itself."""

    def __init__(self, private: bool) -> None:
        self._private = private

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        check_url(newurl, private=self._private)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(private: bool) -> urllib.request.OpenerDirector:
    """Return an opener that knows https alone: no http, ftp, file or data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(private),
    ):
        opener.add_handler(handler)
    return opener


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:200] or type(error).__name__
