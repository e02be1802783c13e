"""What a volunteer and the scheduler say to each other about leases.

Requests and replies of the control stream. A refusal is a reply with its reason in words, never a
silence: a volunteer must be able to say why it is not training.
"""

from typing import Annotated

from msgspec import Meta

from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import DigestField
from dipaco.protocol.wire.text import Text
from dipaco.protocol.work.kinds import Lease, Nats, Result, Size, Token

Code = Annotated[str, Meta(max_length=32, pattern=r"^[a-z-]+\Z")]


class AskLease(Wire, frozen=True, kw_only=True):
    """A volunteer that verified the spec asks for work; it holds no other lease of this run."""

    run: DigestField
    spec: DigestField
    """The spec it verified: a scheduler that adopted another one says so."""


class Granted(Wire, frozen=True, kw_only=True):
    """Here is work."""

    lease: Lease


class NoLease(Wire, frozen=True, kw_only=True):
    """There is none for you now."""

    code: Code
    """`no-lease`, `not-admitted`, `run-over`, `other-spec`, `unknown-run`: see docs/protocol.md."""
    reason: Text
    retry_after: Annotated[float, Meta(ge=0, le=3600)]
    """Seconds."""


class Heartbeat(Wire, frozen=True, kw_only=True):
    """The work goes on; renews the lease."""

    run: DigestField
    token: Token
    done: Size
    """Of `total`: inner steps, documents, or what else the work consists of."""
    total: Size
    tokens_per_second: Annotated[float, Meta(ge=0, le=1e12)]
    loss: Nats | None = None


class HandBack(Wire, frozen=True, kw_only=True):
    """The lease is given up; somebody else may have the work at once."""

    run: DigestField
    token: Token
    reason: Text


class Submit(Wire, frozen=True, kw_only=True):
    """The work is done; its blobs can be fetched from the sender until the reply."""

    run: DigestField
    result: Result


class Stands(Wire, frozen=True, kw_only=True):
    """Yes: the lease is renewed, taken back, or the result counts."""


class Fallen(Wire, frozen=True, kw_only=True):
    """No: the lease is no longer yours, or the result does not count."""

    reason: Text
