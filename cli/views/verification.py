"""The outcome of `verify` for programs."""

import msgspec

from dipaco.node.status.document import Verdict


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `verify --json`."""

    run: str
    """Run id, hex."""
    spec: str
    """Digest of the router spec that is judged, hex; empty: there was none."""
    own: str
    """Digest of the spec that is derived here, hex; empty: none could be derived."""
    verdict: Verdict
    """`verified`, `refuted` or `unverifiable`."""
    stage: str
    """The first stage that differs, or at which no comparison is possible; else empty."""
    reason: str
    """One line for people."""
