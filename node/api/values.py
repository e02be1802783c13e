"""The values of the local API: requests, answers, and the limits of both ends.

`server.py` and `client.py` are the ends; docs/api.md is their contract. This module imports neither
trio, torch, libp2p nor numpy, since every command of the command line imports it.
"""

from typing import Annotated, Final, Literal

import msgspec

from dipaco.node.status.document import Reason
from dipaco.node.status.events import Level
from dipaco.protocol.errors import Unavailable

STATUS: Final = "/v1/status"
LEDGER: Final = "/v1/ledger"
STREAM: Final = "/v1/stream"
EVENTS: Final = "/v1/events"
TASKS: Final = "/v1/tasks"
LOG: Final = "/v1/log"
STOP: Final = "/v1/stop"
FETCH: Final = "/v1/fetch"
PAUSE: Final = "/v1/pause"
RESUME: Final = "/v1/resume"
FINISH: Final = "/v1/finish"
WHY: Final = "/v1/why"
CONFIG: Final = "/v1/config"
LOSSES: Final = "/v1/losses"
RECORDS: Final = "/v1/records"
PAGE: Final = "/v1/page"

MAX_HEAD = 8 << 10  # bytes of a request line with its headers; a browser sends about 1 kB
MAX_BODY = 4 << 10  # bytes of a request's body; the longest has 160
MAX_REPLY = 32 << 20  # bytes; the ledger of 1,000 rounds of 64 modules has 6 MB


class NoDaemon(Unavailable):
    """No daemon answers in this home: a command ends with its own exit code."""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query or the body of a target that takes none."""


Most = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Topics = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(status|events|log)(,(status|events|log)){0,2}\Z",
        description="names among status, events and log, with commas between",
    ),
]


class EventQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query for events of the journal."""

    after: Number = 0
    """The number of the last event that is known."""
    since: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Unix time, seconds."""
    most: Most = 1000


class TaskQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query for the latest tasks."""

    most: Most = 20


class LogQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query for the latest lines of the log."""

    most: Most = 20
    level: Level = "debug"
    """The least one."""


class StreamQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query for a stream."""

    topics: Topics = "status"
    after: Number | None = None
    """The number of the last event that is known; else only new ones are sent."""
    line: Number | None = None
    """The same of lines of the log."""
    level: Level = "debug"
    """The least one of lines."""


Plain = str | int | float | bool | list[str]
"""The value of a setting as `config.toml` has it."""


class SettingView(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the daemon."""

    key: str
    """`section.name`."""
    value: Plain
    """As `config.toml` has it."""
    origin: str
    """`the command line`, a variable with its `$`, the file with the line, `the packaged defaults`
    or `default`."""


class ConfigView(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that the daemon runs with; the file may have been changed since."""

    settings: tuple[SettingView, ...]
    """Every setting, in the order of the documentation."""


class StopRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask the daemon to stop."""

    now: bool = False
    """At once, without handing back the lease."""
    restart: bool = False
    """End with the exit code that has a service started again."""


Moment = Annotated[float, msgspec.Meta(ge=0, le=253402300799)]
"""Unix time, seconds, up to the year 9999."""


class PauseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask the daemon to stop working until a time, or until it is told to resume."""

    until: Moment | None = None
    """In the future."""


class WhyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of the target that tells the reasons of a moment."""

    at: Moment | None = None
    """None: now."""


HexDigest = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits")
]


class FetchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask the daemon to bring a blob of a run into its store, from any peer that has it.

    Only blobs that the run's ledger or manifest names are fetched, and only in their right length.
    """

    run: HexDigest
    """Run id, hex."""
    blob: HexDigest
    """Digest of a module's state, of a score sheet or of the tokenizer's file, hex."""


class LossQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query for the held-out losses of a run."""

    run: HexDigest | None = None
    """Run id, hex; None: the busiest run."""
    most: Most = 200
    """The most versions."""


class RecordQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query for records of a run's ledger."""

    run: HexDigest | None = None
    """Run id, hex; None: the busiest run."""
    first: Number | None = None
    """The number of the first one; None: the last ones are wanted."""
    most: Annotated[int, msgspec.Meta(ge=1, le=100)] = 25


class EvaluationView(msgspec.Struct, frozen=True, kw_only=True):
    """The held-out loss of one path at one version."""

    path: int
    version: int
    documents: int
    tokens: int
    nll: float
    """Summed, in nats."""
    bytes: int | None = None
    """UTF-8 bytes of text that the tokens stand for; null: the peer did not say."""
    peer: str


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of a run's ledger, as far as this node has it."""

    run: str
    """Run id, hex; empty: the node takes part in no run."""
    records: int
    head: str
    """Body digest of the last record, hex."""
    versions: dict[str, int]
    """Module: its latest version."""
    states: dict[str, dict[int, str]]
    """Module: version: digest of the state, hex."""
    evaluations: tuple[EvaluationView, ...]
    finished: bool


class LossView(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out losses of a run by version, as its ledger has them; nats per token."""

    run: str
    """Run id, hex; empty: the node takes part in no run."""
    records: int
    """The number of records of the ledger."""
    versions: tuple[int, ...]
    """The versions that are told, ascending: 0 is the seed model, round t makes version t."""
    overall: tuple[float | None, ...]
    """Per version the loss of all live paths together; null: one of them is not evaluated yet."""
    paths: tuple[tuple[float | None, ...], ...]
    """Per path the same by version."""


class RecordView(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a ledger."""

    number: int
    """From 0."""
    term: int
    """The term of its scheduler."""
    signer: str
    """PeerID of that scheduler."""
    digest: str
    """Digest of its body, hex; the next record names it."""
    kind: str
    """The type of its entry: `SpecAdopted`, `ModuleUpdated`, ..."""
    text: str
    digests: tuple[str, ...]
    """Of the state, spec or score sheet that it names, hex."""


class RecordPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some records of a ledger, ascending."""

    run: str
    """Run id, hex; empty: the node takes part in no run."""
    total: int
    """The number of records of the ledger."""
    records: tuple[RecordView, ...]
    """Ascending by number."""


class PageView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the page is."""

    address: str
    """Of the page, `http://127.0.0.1:7397`."""
    url: str
    """The same with the token behind a `#`: a browser never sends that part."""


class Stopping(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon is stopping."""

    stopping: Literal[True] = True


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """The order that the node follows from now on."""

    mode: str
    """`runs`, `finishing`, or a pause: `user`, `start-paused`, `finished`."""
    since: float
    """Unix time, seconds."""
    until: float | None
    """Unix time at which a pause ends by itself; null: when it is told to resume."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The reasons that held at a moment."""

    at: float
    """Unix time, seconds."""
    state: str
    """A state of `Status`; or `stopped`: the node did not run; or `unknown`: nothing is kept."""
    reasons: tuple[Reason, ...]
    """The one of the state first; empty: nothing is known."""
    since: float | None
    """Unix time from which on these reasons held; null: not known."""
    until: float | None
    """Unix time until which they held; null: they hold still."""


class Fetching(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="progress"):
    """A progress line of a fetch."""

    received: int
    total: int
    """The blob's bytes; 0: no peer that has it was found yet."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="done"):
    """The last line of a fetch: the blob is in the store."""

    bytes: int


class FetchFailed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="failed"):
    """The last line of a fetch: it failed."""

    error: str
    """One line."""


FetchEvent = Fetching | Fetched | FetchFailed


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer whose status is 400 or more."""

    code: int
    """The answer's status."""
    error: str
    """One line."""
