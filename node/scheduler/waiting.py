"""The words for what a run waits for, and for what ends a lease. Pure."""

from collections.abc import Mapping
from itertools import islice

from dipaco.node.kinds.changes import RECONNECT_SECONDS, Grant
from dipaco.node.kinds.state import SchedulingState
from dipaco.node.kinds.table import kind_of
from dipaco.protocol.numbers import count
from dipaco.protocol.routing.labels import MAX_SHEETS_PER_WINDOW
from dipaco.protocol.wire.identity import short_peer
from dipaco.protocol.work.kinds import Token
from dipaco.protocol.work.run_state import MAX_REPLACED


def deadlock(state: SchedulingState) -> str:
    """Say why the run can never go on: peers disagree for good, or moments are lost too often.

    Empty: it can.
    """
    ledger, live_paths = state.ledger, state.rounds.live_paths
    for path, round_ in state.pending:
        lost = state.pending.first_lost(path, ledger.path_version(path))
        if lost == round_ and not ledger.may_replace(path, round_):
            return (
                f"the run cannot go on: the moments of path {path} round {round_} were lost "
                f"{MAX_REPLACED} times after they had arrived here"
            )
    scores = state.scores
    found = next(scores.undecided(live_paths), None) if scores else None
    if scores is None or found is None:
        return ""
    path, window = found
    peers = ", ".join(short_peer(each.peer) for each in scores.given(path, window))
    return (
        f"the run cannot go on: of path {path}, window {window} there are "
        f"{MAX_SHEETS_PER_WINDOW} score sheets, the most, and no majority agrees ({peers})"
    )


def why_idle(state: SchedulingState, grants: Mapping[Token, Grant]) -> str:
    """Say what is waited for."""
    if found := deadlock(state):
        return found
    if leases := [each.lease for each in islice(grants.values(), 4)]:
        held = ", ".join(kind_of(lease).text(lease) for lease in leases)
        return f"all work is leased ({held})"
    if pending := next(iter(state.pending), None):
        path, round_ = pending
        return f"the moments of path {path} round {round_} are still with their maker"
    scores = state.scores
    if not scores:
        return "an outer step is being taken"
    wanted = next(scores.vacancies(state.rounds.live_paths), None)
    if wanted is None:
        return "the next router is being derived"
    return f"path {wanted.path} is to be scored by {count(wanted.places, 'more peer')}"


def why_expired(grant: Grant, now: float) -> str:
    """Say why a lease ends whose time ran out."""
    peer = short_peer(grant.peer)
    if grant.gone + RECONNECT_SECONDS <= now:
        return f"{peer} went away"
    if grant.silent_at <= now:
        return f"{peer} is silent"
    return f"{peer} does not get on"
