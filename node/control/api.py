"""The local API: one JSON line asks, one JSON line answers, over a unix socket.

Owns the values and the client; `server.py` is the other end. The client is synchronous and
imports neither trio, torch, libp2p nor numpy: `status` answers in 0.2 s. The socket lies in the
home folder with mode 0600, so whoever may read the home's key may speak here, and nobody else.

    {"verb": "status"}             -> {"ok": Status}
    {"verb": "ledger"}             -> {"ok": LedgerView}
    {"verb": "stop", "now": false} -> {"ok": Stopping}
    anything else                  -> {"error": "one line"}

A connection may ask any number of times, one after the other.
"""

import socket
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from dipaco.node.control.status import Status
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import RemoteProtocolError, Unavailable

MAX_REQUEST = 4096  # bytes of a line; the longest has 30
MAX_REPLY = 32 << 20  # bytes; the ledger of 1,000 rounds of 64 modules has 6 MB


class NoDaemon(Unavailable):
    """No daemon answers in this home: the command line exits with a code of its own."""


class StatusRequest(msgspec.Struct, frozen=True, tag_field="verb", tag="status"):
    """Ask for the `Status`."""


class LedgerRequest(msgspec.Struct, frozen=True, tag_field="verb", tag="ledger"):
    """Ask for the `LedgerView` of the run the node is in."""


class StopRequest(msgspec.Struct, frozen=True, tag_field="verb", tag="stop"):
    """Ask the daemon to leave."""

    now: bool = False
    """At once, without handing back the lease."""


Request = StatusRequest | LedgerRequest | StopRequest


class EvaluationView(msgspec.Struct, frozen=True, kw_only=True):
    """The held-out loss of one path at one version."""

    path: int
    version: int
    documents: int
    tokens: int
    nll: float
    """Summed, in nats."""
    peer: str


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's ledger adds up to, as far as this node has it."""

    run: str
    """Run id, hex; empty: the node is in no run."""
    records: int
    head: str
    """Body digest of the last record, hex."""
    versions: dict[str, int]
    """Module: the version it stands at."""
    states: dict[str, dict[int, str]]
    """Module: version: digest of the state, hex."""
    evaluations: tuple[EvaluationView, ...]
    finished: bool


class Stopping(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon is on its way out."""

    stopping: Literal[True]


class Handler(Protocol):
    """The daemon, as the server calls it: quick, synchronous, on the daemon's own task."""

    def status(self) -> Status:
        """Return the node's status."""
        ...

    def ledger(self) -> LedgerView:
        """Return what the run's ledger adds up to."""
        ...

    def stop(self, *, now: bool) -> None:
        """Begin to leave, as a TERM would (`now`: as a second one)."""
        ...


A = TypeVar("A")


def ask_status(home: Path, *, timeout: float = 5.0) -> Status:
    """Ask the daemon of `home` for its status; raises NoDaemon (`timeout` in seconds)."""
    return ask(home, StatusRequest(), Status, timeout=timeout)


def ask_ledger(home: Path, *, timeout: float = 30.0) -> LedgerView:
    """Ask the daemon of `home` what its run's ledger adds up to; raises NoDaemon."""
    return ask(home, LedgerRequest(), LedgerView, timeout=timeout)


def ask_stop(home: Path, *, now: bool = False, timeout: float = 5.0) -> None:
    """Ask the daemon of `home` to leave; raises NoDaemon."""
    ask(home, StopRequest(now=now), Stopping, timeout=timeout)


def ask(home: Path, request: Request, kind: type[A], *, timeout: float) -> A:
    """Send one request and return its answer.

    Raises NoDaemon when nobody listens or answers in `timeout` seconds, Unavailable with the
    daemon's words when it cannot do it, RemoteProtocolError for an answer that is none.
    """
    path = Home(home).socket
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            line = _read_line(connection)
    except TimeoutError:
        raise NoDaemon(f"the daemon at {path} does not answer within {timeout:g} s") from None
    except OSError as error:
        raise NoDaemon(f"no daemon runs in {home} ({error.strerror or error})") from None
    return _opened(line, kind)


def _read_line(connection: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        part = connection.recv(1 << 16)
        if not part:
            raise NoDaemon("the daemon went away instead of answering")
        if len(data) + len(part) > MAX_REPLY:
            raise RemoteProtocolError(f"the daemon's answer is longer than {MAX_REPLY} bytes")
        data += part
    return bytes(data)


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to what cannot be answered."""

    error: str


ERROR_PREFIX: Final = b'{"error":'


def _opened(line: bytes, kind: type[A]) -> A:
    try:
        if line.startswith(ERROR_PREFIX):
            raise Unavailable(msgspec.json.decode(line, type=Fault).error)
        return msgspec.json.decode(line, type=dict[Literal["ok"], kind])["ok"]  # type: ignore[valid-type]
    except (msgspec.DecodeError, KeyError) as error:
        raise RemoteProtocolError(f"the daemon answers in another version: {error}") from None
