"""The rules that hold in every universe, and what must be known to check them."""

from collections.abc import Iterable, Mapping

from dipaco.node.kinds.changes import Change, Grant, TrainingAccepted, TrainingDiscarded
from dipaco.node.scheduler.schedule import Schedule
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.calls import Acceptance
from dipaco.protocol.work.keeping import KeeperState
from dipaco.protocol.work.kinds import Token, TrainLease, TrainResult
from dipaco.protocol.work.ledger import LedgerRecord, ModuleUpdated, TermBegun
from dipaco.protocol.work.run_state import RunState
from dipaco.protocol.work.tail import MAX_TAIL_RECORDS
from dipaco.protocol.work.terms import NO_HEAD, Head, OwnersGrant, Promise

UNNOTICED = 5.0  # seconds on the scheduler's clock that a lease may stand after its end


class Violation(Exception):
    """A rule does not hold: the run's code is wrong, or the simulator's."""


class Oracle:
    """It sees everything, and no node sees it."""

    def __init__(self, peers: int, paths: int) -> None:
        self._peers, self._paths = peers, paths
        self._contents: dict[Digest, bytes] = {}
        self._records: dict[int, Digest] = {}
        """Final records by number, as anybody was shown them."""
        self.grants = 0
        """How many leases were granted."""
        self._entries: dict[int, LedgerRecord] = {}
        self._grant: OwnersGrant | None = None
        self._goes_on: PeerId | None = None
        """Whom the owner has granted a term; None: nobody."""
        self.shown = 0
        """How often a node took a record for final, after a start anew."""
        self._versions: dict[ModuleId, int] = {}
        self._accepted: dict[tuple[int, int, int], PeerId] = {}
        """By (term, path, round) whose result counts."""
        self.told: dict[tuple[int, int], tuple[PeerId, TrainResult]] = {}
        """By (path, round) who heard that its result counts."""
        self.excused: set[PeerId] = set()
        """Nodes that sign two ledgers: they lie, or lost what they had signed."""
        self._promised: dict[PeerId, int] = {}
        """By keeper the highest term of a promise that it sent."""
        self._cosigned: dict[PeerId, Head] = {}
        """By keeper the highest head of which it sent a signature."""
        self._forgetting: set[PeerId] = set()
        """Keepers that lost their disk, and do not vote yet."""
        self._kept: dict[PeerId, dict[tuple[int, int], tuple[int, int]]] = {}
        """By keeper, and path and round, the newest acceptance that it said it keeps."""
        self._made_again: set[Token] = set()
        """Results that were taken in for their moments alone."""
        self._listed: dict[tuple[int, int], set[PeerId]] = {}
        """By (path, round) whose results the final records list."""
        self._divided: set[tuple[int, int]] = set()
        """Of them those of which some modules alone had the result when the owner gave up the rest:
        the others may get the result of another peer, which is equal to the byte."""

    # ------------------------------------------------------------------ events

    def blob(self, digest: Digest, content: bytes) -> None:
        """A node stores a blob: a digest names one content."""
        if self._contents.setdefault(digest, content) != content:
            raise Violation(f"the digest {digest.hex()[:8]} names two contents")

    def final(self, record: LedgerRecord, digest: Digest) -> None:
        """A node takes a record for final: none is ever lost, and versions step by one."""
        self.shown += 1
        if self._given_up(record):
            return
        known = self._records.setdefault(record.seq, digest)
        if known != digest:
            raise Violation(f"two records of number {record.seq} are final: one of them is lost")
        if isinstance(record.entry, TermBegun):
            self._begins(record.seq, record.entry)
        if isinstance(record.entry, ModuleUpdated) and record.seq not in self._entries:
            self._step(record.entry)
            for each in record.entry.contributions:
                self._listed.setdefault((each.path, record.entry.version), set()).add(each.peer)
        self._entries.setdefault(record.seq, record)

    def _begins(self, length: int, entry: TermBegun) -> None:
        """A term begins from the highest head of a quorum, and the others of its term are on it."""
        heads = [open_signed(signed, Promise).head for signed in entry.promises]
        highest = max(heads, key=lambda head: head.rank)
        if highest.length != length:
            raise Violation(f"a term begins at record {length}, promised is {highest.length}")
        for head in heads:
            beside = head.length and head.term == highest.term
            if beside and self._records[head.length - 1] != head.digest:
                raise Violation(f"a term begins from two chains of term {head.term}")

    def granted(self, grant: OwnersGrant, scheduler: PeerId, fold: RunState) -> None:
        """The owner gives up all records beyond a head, and those that heard of them as well.

        fold   of the records up to that head.
        """
        kept = [self._entries[seq] for seq in range(grant.head.length)]
        digests = {seq: self._records[seq] for seq in range(grant.head.length)}
        for table in (self._entries, self._records, self._versions, self._listed):
            table.clear()
        for record in kept:
            self.final(record, digests[record.seq])
        whole = {
            (path, round_) for path, round_ in self._listed if fold.path_version(path) >= round_
        }
        self.told = {place: told for place, told in self.told.items() if place in whole}
        self._divided = self._listed.keys() - whole
        self._grant, self._goes_on = grant, scheduler

    def _given_up(self, record: LedgerRecord) -> bool:
        grant = self._grant
        if grant is None or record.term >= grant.term:
            return False
        return record.seq >= grant.head.length

    def _step(self, entry: ModuleUpdated) -> None:
        module = ModuleId(entry.module)
        before = self._versions.get(module, 0)
        if entry.version not in (before, before + 1):
            raise Violation(f"module {module} goes from version {before} to {entry.version}")
        self._versions[module] = entry.version

    def change(self, change: Change, term: int) -> None:
        """A scheduler made a change in its term, which is saved."""
        match change:
            case Grant():
                self.grants += 1
            case TrainingAccepted(path=path, round=round_, peer=peer):
                if self._accepted.setdefault((term, path, round_), peer) != peer:
                    raise Violation(f"path {path} round {round_} has results of two peers")
            case TrainingDiscarded(path=path, round=round_):
                self._accepted.pop((term, path, round_), None)
                self.told.pop((path, round_), None)

    def made_again(self, token: Token) -> None:
        """A scheduler takes a result for the moments of a round that has ended."""
        self._made_again.add(token)

    def stands(
        self, peer: PeerId, lease: TrainLease, result: TrainResult, scheduler: PeerId
    ) -> None:
        """A volunteer hears that its training result counts."""
        if lease.token in self._made_again or (self._goes_on and scheduler != self._goes_on):
            return
        before = self.told.setdefault((lease.path, lease.round), (peer, result))
        if before[0] != peer:
            raise Violation(f"two peers heard that path {lease.path} round {lease.round} is theirs")

    def struck(self, who: PeerId, reason: str) -> None:
        """A node blames another for something."""
        if who not in self.excused:
            raise Violation(f"{who} is struck, and is honest: {reason}")

    def lied(self, who: PeerId, reason: str) -> None:
        """A scheduler is told of a chain of its own that it does not know."""
        self.struck(who, reason)

    def convicted(self, who: PeerId) -> None:
        """A keeper has a proof that a scheduler signed two ledgers."""
        self.struck(who, "it signed two ledgers")

    # ------------------------------------------------------------------ keepers

    def promised(self, keeper: PeerId, term: int, head: Head) -> None:
        """A keeper answers with a promise: from now on it signs nothing of a lower term."""
        self._speaks(keeper)
        if head.rank < self._cosigned.get(keeper, NO_HEAD).rank:
            raise Violation(f"{keeper} promises with a lower head than it has signed")
        self._promised[keeper] = max(term, self._promised.get(keeper, 0))

    def cosigned(self, keeper: PeerId, head: Head) -> None:
        """A keeper answers with a signature."""
        self._speaks(keeper)
        if head.term < self._promised.get(keeper, 0):
            raise Violation(f"{keeper} signs a head of term {head.term}, below what it promised")
        if head.rank > self._cosigned.get(keeper, NO_HEAD).rank:
            self._cosigned[keeper] = head

    def _speaks(self, keeper: PeerId) -> None:
        if keeper in self._forgetting:
            raise Violation(f"{keeper} lost its disk, and answers before it may vote")

    def votes_again(self, keeper: PeerId, term: int) -> None:
        """A keeper votes that knew nothing: the others have gone on in `term` without it."""
        signed = self._cosigned.get(keeper, NO_HEAD)
        spoke = max(signed.term, self._promised.get(keeper, 0))
        if term < spoke or (term == spoke and signed.length):
            raise Violation(f"{keeper} votes in term {term} again, and has spoken in term {spoke}")
        self._forgetting.discard(keeper)

    def kept(self, keeper: PeerId, acceptances: Iterable[Signed]) -> None:
        """A keeper answers that it keeps acceptances, or newer ones of the same path and round."""
        kept = self._kept.setdefault(keeper, {})
        for signed in acceptances:
            each = open_signed(signed, Acceptance)
            order = each.term, each.order
            kept[each.place] = max(order, kept.get(each.place, order))

    def lost(self, keeper: PeerId) -> None:
        """A keeper loses its disk: it is to say nothing until it votes again."""
        self._forgetting.add(keeper)
        self._kept.pop(keeper, None)

    def keeper(self, keeper: PeerId, state: KeeperState, fold: RunState) -> None:
        """Hold a running keeper against the rules.

        fold   of its final ledger.
        """
        forgets = state.promised_term < self._promised.get(keeper, 0)
        if forgets and keeper not in self._forgetting:
            raise Violation(f"{keeper} forgets that it promised term {self._promised[keeper]}")
        kept = self._kept.get(keeper, {})
        for (path, round_), order in list(kept.items()):
            held = state.acceptances.get((path, round_))
            if fold.path_version(path) >= round_:
                del kept[path, round_]
            elif held is None or (held.acceptance.term, held.acceptance.order) < order:
                raise Violation(f"{keeper} forgets the acceptance of path {path} round {round_}")
        self.table("records in a tail", len(state.tail), MAX_TAIL_RECORDS)
        self.table("kept acceptances", len(state.acceptances), 3 * self._paths)

    # ------------------------------------------------------------------ states

    def leases(self, schedule: Schedule, now: float, *, since: float) -> None:
        """Hold the ends of a scheduler's leases against the rule.

        since   when it could first look for leases that had ended: it was away before.
        """
        for grant in schedule.grants.values():
            overdue = now - max(grant.deadline, since)
            if overdue > UNNOTICED:
                raise Violation(f"a lease outlives its end by {overdue:.1f} s")
        parked = sum(1 for _ in schedule.parking.all_parked(now))
        self.table("parked peers", parked, self._peers)

    def schedule(self, schedule: Schedule) -> None:
        """Hold the tables of a running scheduler against their bounds."""
        state, paths, peers = schedule.state, self._paths, self._peers
        self.table("leases", len(schedule.grants), 2 * peers)
        self.table("acceptances", len(state.accepted), 2 * paths)
        self.table("pending moments", sum(1 for _ in state.pending), 3 * paths)
        self.table("proven peers", len(schedule.standing), peers)

    def table(self, name: str, size: int, most: int) -> None:
        """Hold the size of a table against its bound."""
        if size > most:
            raise Violation(f"{size} {name}, at most {most}: memory is not bounded")

    def at_end(self, state: RunState, expected: Mapping[ModuleId, list[Digest]]) -> None:
        """Hold the run's end against the reference, and against what the volunteers heard."""
        for module, versions in expected.items():
            if state.states.get(module) != versions:
                raise Violation(f"module {module} is not the reference's")
        for place, (peer, _) in self.told.items():
            if place in self._divided:
                continue
            for other in self._listed.get(place, set()) - {peer}:
                raise Violation(f"{peer} heard that {place} is its, the ledger lists {other}")

    @property
    def length(self) -> int:
        """Return the number of records that anybody takes for final."""
        return len(self._records)
