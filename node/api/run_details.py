"""What a status tells of one run beside its grid: its router, its pace, its schedule."""

import time
from collections.abc import Iterator

import trio

from dipaco.node.kinds.changes import Grant
from dipaco.node.kinds.table import kind_of
from dipaco.node.runs.record import HeldSpec, RunRecord
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.status.activity import RunActivity
from dipaco.node.status.run_details import (
    MAX_MEMBERS,
    MAX_RECEIPTS,
    LeaseStatus,
    MemberStatus,
    PaceStatus,
    ReceiptStatus,
    RouterStatus,
    ScheduleStatus,
    StageDigest,
)
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.routing.stages import stage_digests
from dipaco.protocol.wire.identity import PeerId

MOST_SECONDS = 366 * 86400.0  # of a lease: what is inspected has no deadline, and JSON no infinity


def router_of(record: RunRecord, activity: RunActivity) -> RouterStatus | None:
    """Return the newest router of a run; None: it is not here yet."""
    held = record.newest()
    if held is None:
        return None
    return RouterStatus(
        epoch=held.spec.epoch,
        kind=held.spec.kind,
        author=held.author,
        reason=activity.verdict_reason,
        stages=tuple(
            StageDigest(stage=stage, digest=digest.hex())
            for stage, digest in stage_digests(held.spec)
        ),
        receipts=_receipts(record, held),
    )


def _receipts(record: RunRecord, held: HeldSpec) -> tuple[ReceiptStatus, ...]:
    said = record.said.get(spec_digest(held.spec), {})
    told = sorted(said.items())[:MAX_RECEIPTS]
    return tuple(ReceiptStatus(peer=peer, outcome=outcome.value) for peer, outcome in told)


def rounds_done(record: RunRecord) -> float | None:
    """Return the rounds that the live paths have done, in the mean; None before the seed model."""
    if not record.state.seeded:
        return None
    paths = record.rounds.live_paths
    return sum(map(record.state.path_version, paths)) / max(1, len(paths))


def pace_of(record: RunRecord, activity: RunActivity) -> PaceStatus | None:
    """Return how fast a run gets on; None before the seed model."""
    done = rounds_done(record)
    return None if done is None else activity.pace.now(time.time(), done, record.rounds.last)


def schedule_of(scheduler: Scheduler) -> ScheduleStatus:
    """Return a run as its scheduler, which is this node, sees it."""
    schedule = scheduler.schedule
    places = {place.peer: number for number, place in enumerate(schedule.queue, 1)}
    held: dict[PeerId, list[Grant]] = {}
    for grant in schedule.grants.values():
        held.setdefault(grant.peer, []).append(grant)
    peers = list(dict.fromkeys((*held, *places)))
    return ScheduleStatus(
        members=tuple(
            MemberStatus(
                peer=peer,
                proven=schedule.standing.proven(peer),
                seconds=schedule.standing.pace(peer),
                place=places.get(peer),
                leases=tuple(_lease(scheduler, grant) for grant in held.get(peer, ())),
            )
            for peer in peers[:MAX_MEMBERS]
        ),
        count=len(peers),
        tokens_per_second=sum(
            scheduler.beats[token].tokens_per_second
            for token in schedule.grants
            if token in scheduler.beats
        ),
        blocks=tuple(filter(None, _blocks(scheduler))),
    )


def _lease(scheduler: Scheduler, grant: Grant) -> LeaseStatus:
    work = scheduler.schedule.grants.work(grant)
    beat = scheduler.beats.get(grant.lease.token)
    then = time.time() - trio.current_time()  # of the scheduler's clock
    return LeaseStatus(
        work=kind_of(grant.lease).text(grant.lease),
        path=work.path,
        round=work.round,
        since=round(then + grant.since),
        until=round(then + min(grant.deadline, grant.since + MOST_SECONDS)),
        tokens_per_second=beat.tokens_per_second if beat else 0.0,
        loss=beat.loss if beat else None,
        in_hand=grant.behind in scheduler.schedule.grants,
    )


def _blocks(scheduler: Scheduler) -> Iterator[str]:
    yield scheduler.full
    yield scheduler.waiting
    yield scheduler.lacking
    yield scheduler.recovery.why(trio.current_time())
    yield scheduler.schedule.deadlock
