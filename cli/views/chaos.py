"""The part of a report that tells of faults: the tape, the events, the recoveries, the growth."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from rich.table import Table

from dipaco.cli.views.layout import Column, fitted_table
from dipaco.node.status.document import Status
from dipaco.protocol.numbers import span


class HeldPath(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that a node held when a fault met it."""

    node: str
    """Its name."""
    path: int
    round: int
    leased_again: float | None
    """Seconds from the fault to the next lease of the same path and round; null: none followed."""
    accepted: float | None
    """Seconds from the fault to the result that counted; null: none did."""


class FaultReport(msgspec.Struct, frozen=True, kw_only=True):
    """A fault of the tape, and its effect."""

    number: int
    """From 1."""
    at: float | None
    """Seconds after the first lease of a path, as planned; null: in `round`."""
    round: int | None
    """The round, from 1; null: at a time."""
    kind: Literal["kill", "restart", "freeze", "leave", "join", "partition"]
    targets: tuple[str, ...]
    """Names of nodes, as planned."""
    seconds: float | None
    """Planned length; null: for good."""
    way: Literal["both", "in", "out"]
    """Directions of a cut."""
    met: tuple[str, ...] = ()
    """Names of the nodes that it met; empty: none."""
    began: float | None = None
    """Seconds after the start of the network; null: it was not reached."""
    ended: float | None = None
    """When the nodes were back or the cut was healed; null: not yet."""
    ready: float | None = None
    """Seconds from the start of the process to its `ready` line; null: no process was started."""
    note: str = ""
    """Why it met nobody; else empty."""
    held: tuple[HeldPath, ...] = ()
    """The leases of paths that the nodes held."""
    freed: float | None = None
    """Seconds to the end of the next lease that gave no result; null: none, or none was held."""
    next_lease: float | None = None
    """Seconds to the next lease of anything; of a restart or a join from the `ready` line on."""
    next_record: float | None = None
    """Seconds to the next record of the ledger."""


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a node's log that tells of leases and records."""

    time: float
    """Seconds after the start of the network."""
    node: str
    """The node that said it."""
    what: Literal["lease", "ended", "accepted", "record", "ready"]
    """A lease granted or ended, a result accepted, a record of the ledger, or a node's `ready`."""
    path: int | None = None
    """Number of the path; null: not of a path."""
    round: int | None = None
    """The round; null: not of a path."""
    peer: str = ""
    """The node that got the lease, or whose result was accepted."""
    text: str = ""
    """The kind of the lease or of the record, or why the lease ended."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one node at one moment."""

    time: float
    """Seconds after the start of the network."""
    node: str
    """Its name."""
    start: int
    """The number of the process, from 1."""
    daemon: int
    """Resident bytes of the daemon."""
    worker: int
    """Resident bytes of its worker processes."""
    descriptors: int
    """Open file descriptors of the daemon."""
    threads: int
    """Threads of the daemon."""
    journal: int
    """Bytes of the journal with its write-ahead log."""
    blobs: int
    """Bytes of module states and deltas."""
    cache: int
    """Bytes of shards, source files and scratch."""
    sent: int
    """Bytes since the start of the process."""
    received: int
    """Bytes since the start of the process."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of one process over the settled part of a run."""

    node: str
    """Its name."""
    start: int
    """The number of the process, from 1."""
    what: str
    """A field of `Sample`."""
    first: float
    """The fitted value at the beginning of the settled part."""
    last: float
    """The fitted value at its end."""
    bound: float
    """The most by which it may grow."""
    flat: bool
    """Whether it grew by no more."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger of one node at the end."""

    node: str
    """Its name."""
    records: int
    """Number of records."""
    head: str
    """Body digest of the last record, hex."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """A node when the watchdog ended the network."""

    node: str
    """Its name."""
    process: str
    """Whether it runs, is frozen, or how it ended."""
    status: Status | None
    """Its last status; null: it never answered."""
    tail: tuple[str, ...]
    """The last lines of its log."""


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """The faults of a network, and how it stood them."""

    seed: int
    """Of the tape."""
    faults: tuple[FaultReport, ...]
    """The tape, and what came of it."""
    applied: int
    """The number of faults that met a node."""
    stuck: str
    """Why the watchdog ended the network; empty: it did not."""
    checked: Literal["same", "differs", "not checked"]
    """The module digests against those of one process."""
    differences: tuple[str, ...] = ()
    """Modules and versions that differ."""
    forked: bool
    """Whether two nodes hold different records at one place of the ledger."""
    heads: tuple[Head, ...]
    """The ledger of every node that answered at the end."""
    before: float | None
    """Accepted paths a minute before the first fault; null: it came at once."""
    after: float | None
    """Accepted paths a minute from the first fault on; null: there was none."""
    growth: tuple[Growth, ...] = ()
    """Growth checks; empty without `--soak`."""
    states: tuple[NodeState, ...] = ()
    """Every node, if the watchdog ended the network."""
    happenings: tuple[Happening, ...] = ()
    """Leases, accepted results and records, ascending by time."""
    samples: tuple[Sample, ...] = ()
    """Measurements of all nodes, ascending by time."""


def stood(chaos: Chaos) -> bool:
    """Return whether the network stood its faults, of which all of those by round must come."""
    by_round = sum(fault.round is not None for fault in chaos.faults)
    met = chaos.applied >= max(by_round, min(1, len(chaos.faults)))
    return met and not chaos.forked and all(each.flat for each in chaos.growth)


COLUMNS = (
    Column("fault"),
    Column("kind", words=True),
    Column("met", words=True),
    Column("at s"),
    Column("back s", drop=3),
    Column("held", words=True, drop=2),
    Column("leased again s"),
    Column("next record s", drop=1),
)


def fault_table(chaos: Chaos, width: int) -> Table:
    """Return the table of faults and recoveries."""
    rows = []
    for each in chaos.faults:
        if each.began is None:
            continue
        again = [held.leased_again for held in each.held if held.leased_again is not None]
        rows.append(
            (
                str(each.number),
                each.kind + ("" if each.way == "both" else f" {each.way}"),
                ", ".join(each.met) or each.note,
                f"{each.began:.1f}",
                _seconds(None if each.ended is None else each.ended - each.began),
                ", ".join(f"path {held.path} round {held.round}" for held in each.held) or "-",
                _seconds(max(again)) if again else "-",
                _seconds(each.next_record),
            )
        )
    return fitted_table("faults", COLUMNS, rows, width)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def chaos_lines(chaos: Chaos) -> list[str]:
    """Return the outcome in words, a line each."""
    lines = [
        f"{chaos.applied} of {len(chaos.faults)} faults of the tape with seed {chaos.seed} applied"
    ]
    again = recoveries(chaos)
    if again:
        middle, last = again[len(again) // 2], again[-1]
        lines.append(
            f"leased again after {span(middle)} (median of {len(again)}), at most {span(last)}"
        )
    if chaos.before and chaos.after is not None:
        lines.append(
            f"{chaos.before:.1f} paths a minute before the first fault, {chaos.after:.1f} from it "
            f"on ({chaos.after / chaos.before:.0%})"
        )
    if chaos.forked:
        lines.append("two nodes hold different records at one place of the ledger")
    lines += [
        f"{each.node} grows: {each.what} from {each.first:,.0f} to {each.last:,.0f}, "
        f"at most {each.bound:,.0f} more are allowed"
        for each in chaos.growth
        if not each.flat
    ]
    lines += [f"stuck: {chaos.stuck}"] if chaos.stuck else []
    said = {"same": "every module digest is that of one process", "differs": "digests differ"}
    lines.append(said.get(chaos.checked, "the digests were not checked against one process"))
    return [*lines, *chaos.differences]


def recoveries(chaos: Chaos) -> Sequence[float]:
    """Return the seconds from every fault to the next lease of the path it hit, ascending."""
    return sorted(
        held.leased_again
        for fault in chaos.faults
        for held in fault.held
        if held.leased_again is not None
    )
