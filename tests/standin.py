"""A stand-in for the Hugging Face hub on loopback, for the real client library to talk to.

It answers what huggingface_hub and datasets ask while they resolve and stream a data set: the
revision's commit, the tree, facts of paths with the SHA-256 of large files, HEAD and ranged GET by
way of a redirect to a second path (as the hub sends its readers to a CDN), and 404 in the hub's own
words. A test tells it what to do badly: `fail` the next answers with a status, `cut` the next
bodies after so many bytes.
"""

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from dipaco.protocol.wire.digest import sha256

COMMIT = "5e1f" * 10
LFS_BYTES = 1000  # larger files have a SHA-256 on the hub


@lru_cache(maxsize=64)
def digest_of(data: bytes) -> str:
    """SHA-256 in hex; hashed once, as the hub does."""
    return sha256(data).hex()


@dataclass
class StandIn:
    """What the hub has, what it is to do badly, and what was asked of it."""

    dataset: str = "owner/books"
    commit: str = COMMIT
    branches: tuple[str, ...] = ("main", "v1")
    files: dict[str, bytes] = field(default_factory=dict)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers about bytes."""
    api_failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """The same, of the next answers about anything else."""
    cuts: list[int] = field(default_factory=list)
    """After so many bytes the next bodies of files end, with the connection."""
    ranged: bool = True
    """Whether it heeds ranges."""
    gone: bool = False
    """Whether the commit is gone."""
    asked: list[str] = field(default_factory=list)
    """Method, path and range of every request."""
    lies: dict[str, bytes] = field(default_factory=dict)
    """What it serves in the place of files; what it says of them stays what `files` gives."""
    endpoint: str = ""
    cdn: str = ""
    """Another host, as the client sees it: it takes the facts of a file from the redirect."""

    def paths(self) -> list[dict[str, Any]]:
        """The facts of every file, as the hub's tree has them."""
        return [self.facts(name) for name in sorted(self.files)]

    def facts(self, name: str) -> dict[str, Any]:
        """The facts of one file."""
        data = self.files[name]
        known: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
        if len(data) >= LFS_BYTES:
            known["lfs"] = {"oid": digest_of(data), "size": len(data), "pointerSize": 134}
        return known

    def folders(self) -> list[str]:
        """Every folder that a file is in."""
        parts = [name.split("/") for name in self.files]
        return sorted({"/".join(each[:i]) for each in parts for i in range(1, len(each))})


@contextmanager
def standin_hub(hub: StandIn, tls: ssl.SSLContext | None = None) -> Iterator[StandIn]:
    """Serve `hub` for the block, at `endpoint`; with `tls` over https."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    hub.endpoint = f"{scheme}://127.0.0.1:{server.server_port}"
    hub.cdn = f"{scheme}://localhost:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        span = self.headers.get("Range", "")
        self.state.asked.append(" ".join(filter(None, (self.command, path, span))))
        assert "Authorization" not in self.headers, "an account was used"
        about_bytes = path.startswith("/cdn/")
        failures = self.state.failures if about_bytes else self.state.api_failures
        if failures:
            status, headers = failures.pop(0)
            return self._send(status, b"", headers)
        if about_bytes:
            return self._file(path.removeprefix("/cdn/"), span)
        api = f"/api/datasets/{self.state.dataset}"
        if path == api or path.startswith(f"{api}/"):
            return self._api(path.removeprefix(api).strip("/"), body)
        resolve = rf"/datasets/{re.escape(self.state.dataset)}/resolve/([^/]+)/(.+)"
        if found := re.fullmatch(resolve, path):
            return self._resolve(found[1], found[2])
        return self._missing("RepoNotFound")

    def _api(self, rest: str, body: bytes) -> None:
        what, _, rest = rest.partition("/")
        revision, _, folder = rest.partition("/")
        if not self._has(revision or "main"):
            return self._missing("RevisionNotFound")
        if what in ("", "revision"):
            return self._json({"id": self.state.dataset, "sha": self.state.commit, "siblings": []})
        if what == "paths-info":
            wanted = parse_qs(body.decode())["paths"]
            found = [name for name in wanted if name in self.state.files]
            return self._json([self.state.facts(name) for name in found])
        if what == "tree":
            return self._tree(folder)
        return self._missing("EntryNotFound")

    def _tree(self, folder: str) -> None:
        recursive = "recursive=true" in self.path.lower()
        inside = f"{folder}/" if folder else ""

        def listed(path: str) -> bool:
            rest = path.removeprefix(inside)
            return path.startswith(inside) and bool(rest) and (recursive or "/" not in rest)

        folders = [
            {"type": "directory", "path": path, "oid": "1" * 40, "size": 0}
            for path in self.state.folders()
        ]
        found = [each for each in [*folders, *self.state.paths()] if listed(each["path"])]
        if not found and folder:
            return self._missing("EntryNotFound")
        return self._json(found)

    def _resolve(self, revision: str, name: str) -> None:
        if not self._has(revision):
            return self._missing("RevisionNotFound")
        if name not in self.state.files:
            return self._missing("EntryNotFound")
        data = self.state.files[name]
        tag = digest_of(data)
        headers = {
            "X-Repo-Commit": self.state.commit,
            "ETag": f'"{tag}"',
            "X-Linked-ETag": f'"{tag}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.state.cdn}/cdn/{name}",
        }
        return self._send(302, b"", headers)

    def _file(self, name: str, span: str) -> None:
        data = self.state.files[name]
        headers = {"ETag": f'"{digest_of(data)}"', "Accept-Ranges": "bytes"}
        data = self.state.lies.get(name, data)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", span)
        status = 200
        if found and self.state.ranged:
            start, stop = int(found[1]), int(found[2]) + 1 if found[2] else len(data)
            if start >= len(data):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
            data, status = data[start:stop], 206
        cut = self.state.cuts.pop(0) if self.command == "GET" and self.state.cuts else None
        return self._send(status, data, headers, cut=cut)

    def _has(self, revision: str) -> bool:
        known = {self.state.commit, *self.state.branches}
        return not self.state.gone and revision in known

    def _missing(self, code: str) -> None:
        self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
