"""Planted bugs of the shell: whole nodes under faults are tested by how soon they find each."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from dipaco.node.keeper.restored import restored_state
from dipaco.node.kinds.changes import Change, TrainingAccepted
from dipaco.node.scheduler.replication import Replication
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.journal import Journal
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.candidate import next_own_term
from dipaco.protocol.work.keeping import KeeperState
from tests.simulation_nodes.plan import plan_of
from tests.simulation_nodes.universe import run_plan, undisturbed

Patch = AbstractContextManager[Any]


@dataclass(frozen=True)
class Mutation:
    """One planted bug."""

    name: str
    patches: Callable[[], Sequence[Patch]]
    keepers: bool | None = None
    """Whether it is looked for in universes with keepers, or in those without; None: in all."""

    def found_after(self, most: int) -> tuple[int, str]:
        """Return the number of seeds until a rule did not hold, and which; 0: none failed."""
        undisturbed()
        with ExitStack() as stack:
            for each in self.patches():
                stack.enter_context(each)
            for count in range(most):
                seed = count if self.keepers is None else 2 * count + (not self.keepers)
                outcome = run_plan(plan_of(seed))
                if outcome.violations:
                    return count + 1, outcome.violations[0]
        return 0, ""


def _answers_without_saving() -> Sequence[Patch]:
    """A scheduler answers that a result counts, and has it in memory alone."""
    save = Scheduler._save

    def unsaved(self: Scheduler, changes: Iterable[Change]) -> None:
        save(self, [each for each in changes if not isinstance(each, TrainingAccepted)])

    return [patch.object(Scheduler, "_save", unsaved)]


def _skips_a_sync() -> Sequence[Patch]:
    """A journal leaves it to the system when its commits are on the disk."""
    open_ = Journal.open

    def lazy(path: Any) -> Journal:
        journal = open_(path)
        journal._rows("PRAGMA synchronous = NORMAL", ())
        return journal

    return [patch.object(Journal, "open", lazy)]


def _forgets_its_promise() -> Sequence[Patch]:
    """A keeper does not read again which term it promised."""

    def forgetful(*values: Any) -> KeeperState:
        return replace(restored_state(*values), promised_term=0, promise=None)

    return [patch("dipaco.node.keeper.service.restored_state", forgetful)]


def _leases_without_a_quorum() -> Sequence[Patch]:
    """A scheduler that comes back goes on in the term that it had, and asks no keeper for one."""
    begin = Replication.begin

    async def at_once(self: Replication, term: int) -> tuple[Signed, ...]:
        before = self.record.term
        schedulers = self.record.manifest.schedule.schedulers
        mine = before and scheduler_of_term(schedulers, before) == self.me
        if not mine or term != next_own_term(schedulers, self.me, before):  # it knows of a higher
            return await begin(self, term)
        self.term = self.before = before
        return ()

    return [patch.object(Replication, "begin", at_once)]


def _serves_torn_blobs() -> Sequence[Patch]:
    """A node sends a blob as its file is, unchecked."""

    def chunk_digests(self: BlobStore, digest: Digest, chunk: int) -> tuple[Digest, ...]:
        self.size(digest)
        data = self.path(digest).read_bytes()
        return tuple(sha256(data[at : at + chunk]) for at in range(0, len(data), chunk))

    return [
        patch.object(BlobStore, "_check", lambda self, digest: self.size(digest)),
        patch.object(BlobStore, "chunk_digests", chunk_digests),
    ]


MUTATIONS = (
    Mutation("a scheduler answers before it has saved", _answers_without_saving, keepers=False),
    Mutation("the journal skips the sync of its commits", _skips_a_sync),
    Mutation("a keeper forgets its promise at a restart", _forgets_its_promise, keepers=True),
    Mutation("leases are handed out without a quorum", _leases_without_a_quorum, keepers=True),
    Mutation("a torn blob is served", _serves_torn_blobs),
)


def table(most: int) -> bool:
    """Print how many seeds each bug takes; returns whether all were found."""
    found = True
    for mutation in MUTATIONS:
        count, violation = mutation.found_after(most)
        found &= bool(count)
        print(f"| {mutation.name} | {count or f'not within {most}'} | {violation} |", flush=True)
    return found
