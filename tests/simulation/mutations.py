"""Planted bugs: the simulator is tested by how soon it finds each (`--mutations`).

Every bug is a small patch at a named seam, of the real machines where they have one, and of the
simulated shells and disks for the order of saving and sending.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast
from unittest.mock import patch

from dipaco.node.kinds.changes import Grant, LeaseEnded, TrainingAccepted
from dipaco.node.scheduler import retention
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.run.manifest import Scheduling
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work import candidate, keeping, ledger, tail, terms
from dipaco.protocol.work.calls import Acceptance, AskCosign
from dipaco.protocol.work.keeping import KeeperState
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.relearning import Forgotten
from tests.simulation import scheduler as scheduler_shell
from tests.simulation.chain import LEDGER
from tests.simulation.disk import Disk, Write
from tests.simulation.faults import plan_of
from tests.simulation.keeper import KeeperNode
from tests.simulation.kept_scheduler import KeptSchedulerNode
from tests.simulation.scheduler import SchedulerNode
from tests.simulation.standby import StandbyNode
from tests.simulation.universe import run_plan
from tests.simulation.world import Pause

Patch = AbstractContextManager[Any]


@dataclass(frozen=True)
class Mutation:
    """One planted bug."""

    name: str
    patches: Callable[[], Sequence[Patch]]
    keepers: bool = True
    """Whether it is looked for in universes where schedulers take over, or without keepers."""

    def found_after(self, most: int) -> tuple[int, str]:
        """Return the number of seeds until a rule did not hold, and which; 0: none failed."""
        with ExitStack() as stack:
            for each in self.patches():
                stack.enter_context(each)
            for count in range(most):
                outcome = run_plan(plan_of(4 * count + 2 if self.keepers else 2 * count + 1))
                if outcome.violation:
                    return count + 1, outcome.violation
        return 0, ""


# ------------------------------------------------------------------------------ disks


def _no_sync() -> Sequence[Patch]:
    commit = Disk.commit

    def lazy(self: Disk, writes: list[Write], *, synced: bool = True) -> None:
        commit(self, writes, synced=False)

    return [patch.object(Disk, "commit", lazy)]


def _keeper_answers_first() -> Sequence[Patch]:
    make = KeeperNode.make

    def later(self: KeeperNode, changes: tuple[keeping.Change, ...]) -> None:
        state = self.state

        def save() -> Generator[Any, Any, None]:
            yield Pause(0.5)
            self.state = state
            make(self, changes)

        if any(isinstance(each, keeping.TermPromised) for each in changes):
            for each in changes:
                self.state = keeping.apply(self.state, each)
            self.spawn(save())
        else:
            make(self, changes)

    return [patch.object(KeeperNode, "make", later)]


def _scheduler_answers_first() -> Sequence[Patch]:
    save = SchedulerNode.save

    def unsaved(self: SchedulerNode, change: Any) -> None:
        if not isinstance(change, TrainingAccepted):
            save(self, change)

    return [patch.object(SchedulerNode, "save", unsaved)]


# ------------------------------------------------------------------------------ keepers


def _saved_without(**lost: Any) -> Sequence[Patch]:
    saved_state = KeeperNode.saved_state

    def forgetful(self: KeeperNode) -> KeeperState:
        return replace(saved_state(self), **lost)

    return [patch.object(KeeperNode, "saved_state", forgetful)]


def _promises_anybody() -> Sequence[Patch]:
    return [patch.object(keeping.Keeper, "_check_asker", lambda *given: None)]


def _votes_at_once() -> Sequence[Patch]:
    return [patch.object(KeeperNode, "lost_its_word", lambda self: False)]


def _votes_too_soon() -> Sequence[Patch]:
    return [patch.object(Forgotten, "may_vote", lambda self, final: True)]


def _final_suffix_replaced() -> Sequence[Patch]:
    """A term begins one record early, and keepers give up final records for it."""
    chosen, answer = StandbyNode._chosen, KeeperNode.answer

    def early(self: StandbyNode, taking: candidate.TakeOver) -> Any:
        choice = taking.choice()
        if choice is None or not choice.chain.tail:
            return chosen(self, taking)
        choice = replace(choice, chain=replace(choice.chain, tail=choice.chain.tail[:-1]))
        begun = choice.begun(taking.term, self.key)
        return begun, choice.chain.head.term, taking.open_acceptances(choice.chain)

    def giving_up(self: KeeperNode, who: PeerId, request: Any) -> Any:
        if isinstance(request, AskCosign):
            _give_up_for(self, request)
        return answer(self, who, request)

    return [
        patch.object(StandbyNode, "_chosen", early),
        patch.object(KeeperNode, "answer", giving_up),
        patch.object(ledger, "check_choice", lambda *given: None),
    ]


def _give_up_for(keeper: KeeperNode, request: AskCosign) -> None:
    chain = keeper.chain
    for signed in request.records:
        record = open_signed(signed, LedgerRecord)
        if record.seq < len(chain.records) and record.term > chain.opened[record.seq].term:
            gone = range(record.seq, len(chain.records))
            keeper.disk.commit([(LEDGER, (seq,), None) for seq in gone])
            chain.reread()


def _any_term() -> Sequence[Patch]:
    return [patch.object(keeping, "_term", lambda state, head: head.term)]


def _replaces_its_tail() -> Sequence[Patch]:
    def taking(self: tail.Chain, records: Sequence[Signed]) -> tail.Chain | None:
        fresh = list(records)
        seq = open_signed(fresh[0], LedgerRecord).seq if fresh else self.head.length
        if not self.final.head.length <= seq <= self.head.length:
            return None
        kept = self.tail[: seq - self.final.head.length]
        return replace(self, tail=kept).adding(fresh) if fresh else self

    return [patch.object(tail.Chain, "taking", taking)]


def _lower_order_counts() -> Sequence[Patch]:
    rank = property(lambda self: (-self.term, -self.order))
    return [patch.object(Acceptance, "rank", rank)]


# ------------------------------------------------------------------------------ quorums


def _quorum(size: Callable[[int], int]) -> Sequence[Patch]:
    real = cast(property, vars(Scheduling)["keeper_quorum"]).fget
    assert real is not None
    smaller = property(lambda self: size(real(self)))
    return [patch.object(Scheduling, "keeper_quorum", smaller)]


def _one_keeper_twice() -> Sequence[Patch]:
    def certified(self: candidate.Proposal) -> tuple[Signed, ...]:
        quorum = self.chain.manifest.schedule.keeper_quorum
        return tuple(self.cosigned.values())[:1] * quorum

    return [
        patch.object(candidate.Proposal, "certified", property(certified)),
        patch.object(terms, "_check_quorum", lambda *given: None),
    ]


def _lowest_head() -> Sequence[Patch]:
    def choice(self: candidate.TakeOver) -> candidate.Choice | None:
        if len(self.given) < self.manifest.schedule.keeper_quorum:
            return None
        for each in sorted(self.given.values(), key=lambda each: each.promise.head.rank):
            chain = self._chain(each)
            if chain is not None:
                signed = sorted((e.signed for e in self.given.values()), key=lambda e: e.signer)
                return candidate.Choice(chain, tuple(signed))
        return None

    return [
        patch.object(candidate.TakeOver, "choice", choice),
        patch.object(ledger, "check_choice", lambda *given: None),
    ]


def _contradictions_count() -> Sequence[Patch]:
    return [
        patch.object(candidate, "_allows", lambda head, chain: head.rank <= chain.head.rank),
        patch.object(ledger, "check_choice", lambda *given: None),
    ]


# ------------------------------------------------------------------------------ schedulers


def _goes_on_in_its_term() -> Sequence[Patch]:
    begun = StandbyNode._begun

    def at_once(self: StandbyNode) -> Generator[Any, Any, Any]:
        record = self.chain.record
        if not record.length or record.scheduler != self.peer:
            return (yield from begun(self))
        self.term, self._before, self.scheduling = record.term, record.term, True
        return ()

    return [patch.object(StandbyNode, "_begun", at_once)]


def _told_at_once() -> Sequence[Patch]:
    def keep(self: KeptSchedulerNode, place: tuple[int, int]) -> Generator[Any, Any, None]:
        yield from ()
        self.kept.add(place)

    return [patch.object(KeptSchedulerNode, "_keep", keep)]


def _no_copies() -> Sequence[Patch]:
    def spread(*given: Any) -> Generator[Any, Any, bool]:
        yield from ()
        return True

    return [patch.object(KeptSchedulerNode, "_spread", spread)]


def _delta_twice() -> Sequence[Patch]:
    weighted = SchedulerNode.weighted

    def twice(self: SchedulerNode, step: Any) -> list[tuple[int, int]]:
        found = weighted(self, step)
        return found + found[:1] if step.version == 2 else found

    return [patch.object(SchedulerNode, "weighted", twice)]


def _stale_tokens() -> Sequence[Patch]:
    end, ended = Schedule._end, dict[bytes, Grant]()

    def noting(self: Schedule, change: LeaseEnded) -> None:
        if (grant := self.grants.get(change.token)) is not None and not change.counted:
            ended[change.token] = grant
        end(self, change)

    def grant_of(self: Schedule, peer: PeerId, token: bytes) -> Grant | None:
        grant = self.grants.get(token) or ended.get(token)
        return grant if grant and grant.peer == peer else None

    return [patch.object(Schedule, "_end", noting), patch.object(Schedule, "grant_of", grant_of)]


def _no_expiry() -> Sequence[Patch]:
    return [patch.object(Schedule, "expire", lambda self, now: ())]


def _momenta_go() -> Sequence[Patch]:
    needed = retention.blobs_needed

    def too_few(schedule: Schedule) -> set[Any]:
        return needed(schedule) - set(schedule.ledger.momenta.values())

    return [patch.object(scheduler_shell, "blobs_needed", too_few)]


MUTATIONS = (
    Mutation("nothing is synced before the answer", _no_sync),
    Mutation("a keeper promises before it has saved that", _keeper_answers_first),
    Mutation(
        "a keeper forgets its promise at a restart",
        partial(_saved_without, promised_term=0, promise=None),
    ),
    Mutation("a keeper forgets its tail at a restart", partial(_saved_without, tail=())),
    Mutation(
        "a keeper forgets its acceptances at a restart", partial(_saved_without, acceptances={})
    ),
    Mutation("a keeper signs for a lower term than it promised", _any_term),
    Mutation("a keeper replaces its tail within a term", _replaces_its_tail),
    Mutation("of two acceptances the lower order counts", _lower_order_counts),
    Mutation("one keeper less than a quorum is enough", partial(_quorum, lambda q: max(1, q - 1))),
    Mutation("one keeper counts as a whole quorum", _one_keeper_twice),
    Mutation("a term begins from the lowest head", _lowest_head),
    Mutation("promises that contradict each other begin a term", _contradictions_count),
    Mutation("a suffix that was final is replaced", _final_suffix_replaced),
    Mutation("a keeper promises to anybody", _promises_anybody),
    Mutation("a keeper that lost its disk votes at once", _votes_at_once),
    Mutation("a keeper that lost its disk does not wait for the others", _votes_too_soon),
    Mutation("a restarted scheduler goes on in the term that it had begun", _goes_on_in_its_term),
    Mutation("a volunteer is told before a quorum keeps its result", _told_at_once),
    Mutation("a record is final before its blobs have copies", _no_copies),
    Mutation("a scheduler accepts before it has saved that", _scheduler_answers_first, False),
    Mutation("an outer step takes one delta twice", _delta_twice, False),
    Mutation("a result counts under a lease that has ended", _stale_tokens, False),
    Mutation("leases do not end", _no_expiry, False),
    Mutation("the momenta are removed with the old blobs", _momenta_go, False),
)


def table(most: int) -> bool:
    """Print how many universes it takes to find each bug; returns whether all were found.

    most   universes that each is looked for in.
    """
    found = True
    print("| planted bug | universes until it is found | by |\n|---|---|---|", flush=True)
    for mutation in MUTATIONS:
        count, violation = mutation.found_after(most)
        found &= bool(count)
        print(f"| {mutation.name} | {count or f'not in {most}'} | {violation} |", flush=True)
    return found
