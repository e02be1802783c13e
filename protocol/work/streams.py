"""The calls of the two streams that stay open, and the largest frame that each needs."""

from typing import Final

from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.largest import largest
from dipaco.protocol.wire.messages import (
    MAX_CALL_BODY,
    AskHave,
    AskInventory,
    AskOutside,
    AskPresence,
    Failure,
    Have,
    Inventory,
    LedgerPart,
    Listing,
    ListPeers,
    Outside,
    Ping,
    Pong,
    PresenceIs,
    ReadLedger,
    ReadValue,
    Register,
    Registered,
    Reply,
    Request,
    Value,
)
from dipaco.protocol.work.calls import (
    AskCosign,
    AskHead,
    AskHold,
    AskHolders,
    AskKeep,
    AskLease,
    AskNext,
    AskPromise,
    Behind,
    CosignedHead,
    Fallen,
    Granted,
    HandBack,
    HeadIs,
    Heartbeat,
    Holders,
    Holding,
    Kept,
    NoLease,
    Noted,
    Promised,
    ReadTail,
    Reclaim,
    Stands,
    Submit,
    TailPart,
    TermLeft,
)

Calls = dict[type[Wire], tuple[type[Wire], ...]]

CONTROL_CALLS: Final[Calls] = {
    Ping: (Pong,),
    AskOutside: (Outside,),
    Register: (Registered,),
    ListPeers: (Listing,),
    AskHave: (Have,),
    AskPresence: (PresenceIs,),
    AskLease: (Granted, NoLease),
    AskNext: (Granted, NoLease),
    Heartbeat: (Stands, Fallen),
    HandBack: (Stands,),
    Submit: (Stands, Fallen),
    AskHolders: (Holders,),
    Reclaim: (Stands, Fallen),
    AskHead: (HeadIs,),
    TermLeft: (Noted,),
}
"""By request the answers, on the stream of calls that must not wait."""

SYNC_CALLS: Final[Calls] = {
    AskInventory: (Inventory,),
    ReadValue: (Value,),
    ReadLedger: (LedgerPart,),
    AskPromise: (Promised, Behind),
    AskCosign: (CosignedHead, Behind),
    AskKeep: (Kept, Behind),
    ReadTail: (TailPart,),
    AskHold: (Holding,),
}
"""By request the answers, on the stream of values and of keepers."""


def frame_bytes(calls: Calls) -> int:
    """Return the bytes of the largest frame: the largest value among `calls`, in its call."""
    bodies = [kind for request, answers in calls.items() for kind in (request, *answers)]
    body = int(max(largest(kind).size for kind in bodies))
    around = int(max(largest(Request).size, largest(Reply).size)) - MAX_CALL_BODY
    return int(max(body + around, largest(Failure).size))
