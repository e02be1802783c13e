"""What the nodes' logs tell of leases and records, and how long each fault was felt.

The schedulers log every lease, every accepted result and every record of the ledger at once; the
lines are timed as they arrive here. Reading is pure.
"""

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from dipaco.cli.testnet.chaos.tape import Fault
from dipaco.cli.views.chaos import FaultReport, Happening, HeldPath

LEASE: Final = re.compile(r"lease (\w+) \((?:path (\d+) round (\d+))?[^)]*\) to=(\S+?)(?:\"|$)")
ACCEPTED: Final = re.compile(r"accepted path=(\d+) round=(\d+) of=(\S+?)(?:\"|$)")
ENDED: Final = re.compile(r"lease ended token=[0-9a-f]+: ([^\"]*)")
DONE: Final = "done"
"""The reason of a lease whose result counts."""
RECORD: Final = re.compile(r"ledger ([A-Z]\w+)(?:\"|$)")
READY: Final = "ready"
TRAIN: Final = "train"


def read_line(line: str, time: float, node: str, names: Mapping[str, str]) -> Happening | None:
    """Return what one line of a node's log tells, None if it tells nothing of this kind.

    line    in either format of the log.
    names   the name of a node by the short form of its PeerID.
    """
    if line.startswith(READY):
        return Happening(time=time, node=node, what="ready")
    line = line.rstrip("}")
    if found := LEASE.search(line):
        place = {"path": int(found[2]), "round": int(found[3])} if found[2] else {}
        peer = names.get(found[4], found[4])
        return Happening(time=time, node=node, what="lease", peer=peer, text=found[1], **place)
    if found := ACCEPTED.search(line):
        peer = names.get(found[3], found[3])
        path, round_ = int(found[1]), int(found[2])
        return Happening(time=time, node=node, what="accepted", path=path, round=round_, peer=peer)
    if found := ENDED.search(line):
        return Happening(time=time, node=node, what="ended", text=found[1])
    if found := RECORD.search(line):
        return Happening(time=time, node=node, what="record", text=found[1])
    return None


@dataclass(frozen=True, kw_only=True)
class Happened:
    """A fault as it was applied; times are seconds after the start of the network."""

    fault: Fault
    met: tuple[str, ...] = ()
    began: float
    ended: float | None = None
    started: float | None = None
    """When a process was started again, or joined."""
    ready: float | None = None
    """When it printed its `ready` line."""
    note: str = ""


def fault_report(
    fault: Fault, happened: Happened | None, trace: Sequence[Happening]
) -> FaultReport:
    """Return the report of one fault of the tape.

    trace   ascending by time.
    """
    planned = FaultReport(
        number=fault.number,
        at=fault.at,
        round=fault.round,
        kind=fault.kind,
        targets=fault.targets,
        seconds=fault.seconds,
        way=fault.way,
    )
    if happened is None:
        return planned
    began = happened.began
    back = happened.ready or began
    later = trace[bisect.bisect_right(trace, began, key=lambda each: each.time) :]
    started, ready = happened.started, happened.ready
    felt = fault.kind != "join" and happened.met
    held = tuple(held_paths(happened, trace)) if felt else ()
    lost = (each for each in later if held and each.what == "ended" and each.text != DONE)
    return msgspec.structs.replace(
        planned,
        met=happened.met,
        began=began,
        ended=happened.ended,
        ready=None if started is None or ready is None else ready - started,
        note=happened.note,
        held=held,
        freed=_first(each.time - began for each in lost),
        next_lease=_first(
            each.time - back for each in later if is_lease(each) and each.time > back
        ),
        next_record=_first(each.time - began for each in later if each.what == "record"),
    )


def is_lease(each: Happening) -> bool:
    """Return whether it is a lease."""
    return each.what == "lease"


def _first(times: Iterable[float]) -> float | None:
    return next(iter(times), None)


def held_paths(happened: Happened, trace: Sequence[Happening]) -> Iterable[HeldPath]:
    """Yield the paths that the nodes held when a fault met them."""
    began = happened.began
    holders: dict[tuple[int, int], str] = {}
    for each in trace:
        if each.time > began:
            break
        if each.path is None or each.round is None:
            continue
        place = (each.path, each.round)
        if each.what == "lease" and each.text == TRAIN:
            holders[place] = each.peer
        elif each.what == "accepted":
            holders.pop(place, None)
    later = [each for each in trace if each.time > began]
    for (path, round_), holder in sorted(holders.items()):
        if holder not in happened.met:
            continue
        of_it = [each for each in later if (each.path, each.round) == (path, round_)]
        again = _first(each.time - began for each in of_it if is_lease(each))
        accepted = _first(each.time - began for each in of_it if each.what == "accepted")
        kept = again is not None and accepted is not None and accepted < again
        yield HeldPath(
            node=holder,
            path=path,
            round=round_,
            leased_again=None if kept else again,
            accepted=accepted,
        )


def rate(trace: Sequence[Happening], begin: float, end: float) -> float | None:
    """Return the accepted paths a minute of a stretch of time; None for an empty one."""
    if end <= begin:
        return None
    done = sum(each.what == "accepted" and begin < each.time <= end for each in trace)
    return 60 * done / (end - begin)
