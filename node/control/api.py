"""The local API: one JSON line asks, one JSON line answers, over a unix socket.

Owns the values and the client; `server.py` is the other end. The client is synchronous and
imports neither trio, torch, libp2p nor numpy: `status` answers in 0.2 s. The socket lies in the
home folder with mode 0600, so whoever may read the home's key may speak here, and nobody else.

    {"verb": "status"}             -> {"ok": Status}
    {"verb": "ledger"}             -> {"ok": LedgerView}
    {"verb": "stop", "now": false} -> {"ok": Stopping}
    {"verb": "fetch", ...}         -> {"progress": Fetching} ... {"ok": Fetched}
    anything else                  -> {"error": "one line"}

A connection may ask any number of times, one after the other. Only `fetch` takes its time: while
it lasts, lines say how far it is.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal, Protocol, TypeVar

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


class FetchRequest(msgspec.Struct, frozen=True, tag_field="verb", tag="fetch"):
    """Ask the daemon to bring a blob of a run into its store, from any peer that has it.

    Only what the run's ledger or manifest names is fetched, in the one length that it can have.
    """

    run: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Run id, hex."""
    blob: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Digest of a module's state, or of the tokenizer's file, hex."""


Request = StatusRequest | LedgerRequest | StopRequest | FetchRequest


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


class Fetching(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fetch is."""

    received: int
    total: int
    """Bytes; 0: nobody was found yet who has it."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """The blob is in the store."""

    bytes: int


class Handler(Protocol):
    """The daemon, as the server calls it; what is not async is quick."""

    def status(self) -> Status:
        """Return the node's status."""
        ...

    def ledger(self) -> LedgerView:
        """Return what the run's ledger adds up to."""
        ...

    def stop(self, *, now: bool) -> None:
        """Begin to leave, as a TERM would (`now`: as a second one)."""
        ...

    async def fetch(self, run: str, blob: str, on_progress: Callable[[int, int], None]) -> int:
        """Bring a blob of a run into the store and return its bytes; raises Unavailable.

        on_progress   gets the bytes that are here, and the bytes in all.
        """
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


def ask_fetch(
    home: Path, request: FetchRequest, on_progress: Callable[[Fetching], None], *, timeout: float
) -> Fetched:
    """Have the daemon of `home` fetch a blob; it is in the home's store when this returns.

    timeout   seconds without a word; a daemon at work says two a second.
    Raises NoDaemon, and Unavailable with the daemon's words when nobody connected has the blob.
    """
    return ask(home, request, Fetched, timeout=timeout, on_progress=on_progress)


def ask(
    home: Path,
    request: Request,
    kind: type[A],
    *,
    timeout: float,
    on_progress: Callable[[Fetching], None] = lambda progress: None,
) -> A:
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
            with connection.makefile("rb") as lines:
                while (line := _read_line(lines)).startswith(PROGRESS_PREFIX):
                    on_progress(_decoded(line, Progressing).progress)
    except TimeoutError:
        raise NoDaemon(f"the daemon at {path} does not answer within {timeout:g} s") from None
    except OSError as error:
        raise NoDaemon(f"no daemon runs in {home} ({error.strerror or error})") from None
    return _opened(line, kind)


def _read_line(lines: BinaryIO) -> bytes:
    line = lines.readline(MAX_REPLY + 1)
    if len(line) > MAX_REPLY:
        raise RemoteProtocolError(f"the daemon's answer is longer than {MAX_REPLY} bytes")
    if not line.endswith(b"\n"):
        raise NoDaemon("the daemon went away instead of answering")
    return line


class Progressing(msgspec.Struct, frozen=True):
    """A line before the answer."""

    progress: Fetching


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to what cannot be answered."""

    error: str


ERROR_PREFIX: Final = b'{"error":'
PROGRESS_PREFIX: Final = b'{"progress":'


def _opened(line: bytes, kind: type[A]) -> A:
    if line.startswith(ERROR_PREFIX):
        raise Unavailable(_decoded(line, Fault).error)
    return _decoded(line, dict[Literal["ok"], kind])["ok"]  # type: ignore[valid-type]


def _decoded(line: bytes, kind: type[A]) -> A:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError as error:
        raise RemoteProtocolError(f"the daemon answers in another version: {error}") from None
