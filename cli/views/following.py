"""A run as it is followed from outside: a line for each round, and one while nothing moves."""

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from dipaco.cli.views.run_facts import Loss, overall_losses
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.numbers import count, span
from dipaco.protocol.wire.digest import short
from dipaco.protocol.wire.identity import fingerprint
from dipaco.protocol.wire.text import escaped

STALL_SECONDS: Final = 60.0  # without news, until a line says what the run waits for
MAX_PATHS: Final = 8  # that a line names


class RoundSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `run follow --json`."""

    run: str
    """Run id, hex."""
    name: str
    """The run's name."""
    owner: str
    """PeerID."""
    round: int
    """The newest round whose version every live path has and is evaluated; 0: the seed model."""
    rounds: int
    """Number of the run's rounds."""
    loss: float | None
    """Held-out loss of all paths at that version, nats per token; null: none yet."""
    perplexity: float | None
    """null: none yet."""
    bits_per_byte: float | None
    """null: not known."""
    members: int
    """The peers whose results the last outer steps used, each path's last."""
    records: int
    """Number of records of the ledger, whose signatures were checked."""
    waits: tuple[int, ...]
    """The paths that are not in the next version yet."""
    blocks: str
    """What keeps the run from going on; empty: nothing that shows from outside."""
    over: bool
    """Whether the run is over; then it is the last line."""


@dataclass
class Follower:
    """Decides when there is something to tell."""

    _round: int = -2
    """The last one that was told; -1: that there is none yet."""
    _told: float = math.inf
    """When; before the first time nothing counts as stalled."""

    def news(self, record: RunRecord, now: float, *, connected: bool) -> RoundSeen | None:
        """Return what there is to tell: a new round, or after a while what keeps the run.

        now         seconds of any clock.
        connected   whether the run's scheduler is.
        """
        losses = overall_losses(record.state, record.rounds.live_paths)
        newest = losses[-1].version if losses else -1
        stalled = now >= self._told + STALL_SECONDS
        if newest == self._round and not stalled and not record.over:
            return None
        self._round, self._told = newest, now
        return _seen(record, losses[-1] if losses else None, connected=connected, stalled=stalled)


def _seen(record: RunRecord, loss: Loss | None, *, connected: bool, stalled: bool) -> RoundSeen:
    m, state = record.manifest, record.state
    due = (loss.version if loss else 0) + 1
    over = record.over
    waits = (
        ()
        if over or not state.seeded
        else tuple(path for path in record.rounds.live_paths if state.path_version(path) < due)
    )
    blocks = ""
    if not over and not connected:
        blocks = "its scheduler is not connected"
    elif not over and stalled:
        blocks = f"no news for {span(STALL_SECONDS)}"
    return RoundSeen(
        run=record.run.hex(),
        name=m.name,
        owner=m.owner,
        round=loss.version if loss else 0,
        rounds=record.rounds.last,
        loss=loss.per_token if loss else None,
        perplexity=loss.perplexity if loss else None,
        bits_per_byte=loss.bits_per_byte if loss else None,
        members=len(set(state.contributors.values())),
        records=record.length,
        waits=waits,
        blocks=blocks,
        over=over,
    )


def head_text(record: RunRecord) -> str:
    """Return the line before all others."""
    m = record.manifest
    signer = fingerprint(m.owner)
    return f"{escaped(m.name)} {short(record.run)}, signed by {signer}, {count(m.paths, 'path')}"


def round_text(seen: RoundSeen) -> str:
    """Return the line for people."""
    parts = [f"round {seen.round} of {seen.rounds}"]
    if seen.loss is not None and seen.perplexity is not None:
        parts.append(f"loss {seen.loss:.4f} (perplexity {seen.perplexity:,.1f})")
    if seen.members:
        parts.append(count(seen.members, "member"))
    if seen.waits:
        shown = ", ".join(map(str, seen.waits[:MAX_PATHS]))
        more = ", ..." if len(seen.waits) > MAX_PATHS else ""
        parts.append(f"waits for path {shown}{more}")
    if seen.blocks:
        parts.append(seen.blocks)
    if seen.over:
        parts.append("over")
    return "  ".join(parts)
