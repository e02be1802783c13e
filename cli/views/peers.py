"""The connected peers."""

import msgspec

from dipaco.cli.views.layout import Column, table_text
from dipaco.node.status.document import PeerStatus, Status
from dipaco.protocol.numbers import count, size, span
from dipaco.protocol.wire.identity import PeerId, short_peer

COLUMNS = (
    Column("peer", words=True),
    Column("address", words=True, drop=3),
    Column("round trip"),
    Column("sent", drop=2),
    Column("received", drop=2),
    Column("connected", drop=1),
)
WHOLE_PEERS = 130  # columns of a terminal from which PeerIDs are shown whole


class PeerList(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `peers --json`."""

    peers: tuple[PeerStatus, ...]
    """The connected peers."""


def peers_text(status: Status, width: int | None) -> str:
    """Return a line for each peer, and their number."""
    whole = width is None or width >= WHOLE_PEERS
    rows = [
        (
            peer.id if whole else short_peer(PeerId(peer.id)),
            peer.address or "-",
            "-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms",
            size(peer.sent),
            size(peer.received),
            "-" if peer.since is None else span(max(0.0, status.time - peer.since)),
        )
        for peer in status.peers
    ]
    number = count(len(rows), "peer")
    return "\n".join([table_text(COLUMNS, rows, width), number] if rows else [number])
