"""One file over HTTPS: checks its address, and reads its bytes from an offset on.

A manifest from the network may name any address. So these rules hold, for redirects too: only
https, with the certificate checked; no user or password; and no machine of the volunteer's own
network, neither by name nor by the IP address of the name, unless the operator allows that
(`run.local_sources`). No part of an address becomes a path on this machine.
"""

import ipaddress
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from dipaco.node.data.retry import Broken
from dipaco.protocol.errors import ConfigError, Refusal, Unavailable

PREFIX = "https://"
TIMEOUT = 30.0  # seconds without a byte
MAX_REDIRECTS = 10
MAX_LABEL = 63  # characters of one label of a host name, a limit of DNS
MAX_PORT = 65535
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
HEADERS = {"User-Agent": "dipaco-node", "Accept-Encoding": "identity"}
ALLOW = "only the operator can allow that (run.local_sources)"


def check_url(url: str, *, private: bool) -> None:
    """Raise Refusal for an address that no run may name.

    private   whether this machine and others of its network are allowed.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Refusal(f"source.files: {url!r}: not an https address")
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise Refusal(f"source.files: {url!r}: {error}") from error
    if parts.scheme != "https" or not _is_host(parts.host) or (parts.port or 0) > MAX_PORT:
        raise Refusal(f"source.files: {url!r}: not an https address")
    if parts.userinfo or parts.fragment:
        raise Refusal(f"source.files: {url!r}: an address has no user, password or fragment")
    if not private and not _is_public(parts.host):
        raise Refusal(f"source.files: {url!r}: it is in this machine's own network; {ALLOW}")


def _is_host(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return all(0 < len(label) <= MAX_LABEL for label in labels)


def _is_public(host: str) -> bool:
    """Return whether a host is on the public internet, as far as its name shows."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2].lower()
        numeric = last.isdigit() or last.startswith("0x")  # 127.1, 0x7f000001
        return "." in host and not numeric and last not in ("localhost", "local", "internal")


class HttpsFile:
    """The file at an address; every attempt opens it anew."""

    def __init__(self, url: str, *, private: bool, size: int | None = None) -> None:
        """size: of the file in bytes, if it is known. Raises Refusal for a bad address."""
        check_url(url, private=private)
        self._url, self._private, self._size = url, private, size

    def pieces(self, start: int) -> Iterator[bytes]:
        """Yield the bytes from `start` on; raises Broken, or Unavailable if a retry cannot help."""
        came, left = 0, None
        try:
            with _client() as client, closing(self._open(client, start)) as response:
                left = self._left(response, start)
                skip = start if response.status_code == 200 else 0  # the server knows no ranges
                for piece in response.iter_raw():
                    came += len(piece)
                    useful = piece[skip:]
                    skip -= len(piece) - len(useful)
                    if useful:
                        yield useful
        except httpx2.HTTPError as error:
            ended = f"the connection ended after {came} of {left or 'unknown'} bytes"
            raise Broken(ended if came else _words(error), some=came > 0) from error

    def _open(self, client: httpx2.Client, start: int) -> httpx2.Response:
        """Follow redirects, and return the final response before its body is read."""
        headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
        guard = _Guard(self._private)
        request: httpx2.Request | None = client.build_request(
            "GET", self._url, headers=headers, extensions={"trace": guard.trace}
        )
        for _ in range(1 + MAX_REDIRECTS):
            assert request is not None
            guard.host = request.url.raw_host.decode("ascii")
            response = client.send(request, stream=True)
            if (request := response.next_request) is None:
                return self._good(response)
            response.close()
            check_url(str(request.url), private=self._private)
        raise Unavailable(f"source.files: {self._url}: more than {MAX_REDIRECTS} redirects")

    def _good(self, response: httpx2.Response) -> httpx2.Response:
        """Return `response` if it is a success; else close it and raise."""
        if response.is_success:
            return response
        response.close()
        status = response.status_code
        if status in PASSING:
            wait = retry_after(response.headers.get("Retry-After"))
            raise Broken(f"the server says {status}", retry_after=wait)
        raise Unavailable(
            f"source.files: {self._url}: the server says {status} {response.reason_phrase}"
        )

    def _left(self, response: httpx2.Response, start: int) -> int | None:
        """Return the number of bytes to come, None if the server states none.

        Raises Unavailable for another range than asked for, or another size than the run pins.
        """
        ranged = response.status_code == 206
        if ranged and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise Unavailable(f"source.files: {self._url}: the server sends another range")
        if (said := response.headers.get("Content-Length")) is None:
            return None
        left = int(said)
        whole = left + (start if ranged else 0)
        if self._size is not None and whole != self._size:
            raise Unavailable(
                f"source.files: {self._url}: {whole} bytes where the run pins {self._size}"
            )
        return left


class _Guard:
    """Ends a connection into this machine's own network before a byte is sent over it.

    A public name can have a private IP address, so the address of the connection is checked. A
    connection to the operator's proxy is not checked: only the proxy knows the final address.
    """

    def __init__(self, private: bool) -> None:
        self.host = ""
        """The host of the request; a connection to another host goes to a proxy."""
        self._private = private
        self._connecting = ""

    def trace(self, event: str, details: dict[str, Any]) -> None:
        """Take httpx2's report of a step; raises Unavailable."""
        if event == "connection.connect_tcp.started":
            self._connecting = details["host"]
        if event != "connection.connect_tcp.complete" or self._private:
            return
        stream = details["return_value"]
        ip = stream.get_extra_info("server_addr")[0].partition("%")[0]
        if self._connecting == self.host and not ipaddress.ip_address(ip).is_global:
            stream.close()
            raise Unavailable(
                f"source.files: {self.host} leads to {ip} in this machine's own network; {ALLOW}"
            )


def _client() -> httpx2.Client:
    """Return a client with the certificates and proxies of the environment; raises ConfigError."""
    try:
        return httpx2.Client(timeout=TIMEOUT)
    except (ImportError, ValueError, OSError) as error:  # SOCKS is missing; bad proxy; bad file
        raise ConfigError(
            f"SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY or ALL_PROXY: {_words(error)}"
        ) from error


def retry_after(said: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, 0 if there is none."""
    if not said:
        return 0.0
    if said.strip().isdigit():
        return float(said.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
