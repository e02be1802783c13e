"""The table in docs/protocol.md of the largest value of every place, made from the types."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Receipt
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.largest import largest
from dipaco.protocol.wire.messages import (
    Absent,
    Announcement,
    AskChunk,
    AskOutline,
    Outline,
    PeerRecord,
)
from dipaco.protocol.work.calls import Acceptance
from dipaco.protocol.work.kinds import Lease
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.streams import CONTROL_CALLS, SYNC_CALLS, frame_bytes
from dipaco.protocol.work.terms import Cosigned, OwnersGrant, Promise

PAGE: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
BEGIN: Final = "<!-- largest values: written by tests/golden/regenerate.py -->"
END: Final = "<!-- end of largest values -->"
SIGNED: Final = (
    *(Manifest, RouterSpec, Receipt, LedgerRecord, PeerRecord),
    *(Promise, Cosigned, OwnersGrant, Acceptance),
)


def table() -> str:
    """Return the whole table in Markdown."""
    rows = ["| value | place | bytes | items | depth |", "|---|---|---|---|---|"]
    for place, kind in _places():
        most = largest(kind)
        name = " or ".join(f"`{each.__name__}`" for each in getattr(kind, "__args__", (kind,)))
        rows.append(f"| {name} | {place} | {most.size:,} | {most.items:,} | {most.depth} |")
    control, sync = frame_bytes(CONTROL_CALLS), frame_bytes(SYNC_CALLS)
    rows.append(f"| a frame | control | {control:,} | | |")
    rows.append(f"| a frame | sync | {sync:,} | | |")
    return "\n".join(rows)


def _places() -> Iterator[tuple[str, Any]]:
    for stream, calls in (("control", CONTROL_CALLS), ("sync", SYNC_CALLS)):
        for request, answers in calls.items():
            yield f"request, {stream}", request
            for answer in answers:
                yield f"answer, {stream}", answer
    for kind in SIGNED:
        yield "body of an envelope", kind
    yield "lease, kept on disk", Lease
    yield "gossip", Announcement
    yield "request, blob", AskOutline
    yield "request, blob", AskChunk
    yield "answer, blob", Outline | Absent


def write() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")
