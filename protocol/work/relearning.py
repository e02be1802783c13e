"""A keeper that has forgotten what it promised and signed: when it may vote again.

It must not vote as if it had signed nothing: what it signed may still complete a certificate, and
what it promised may begin a term. Other keepers tell it a term that is above all of that. It is
silent until a quorum of them has gone on alone in such a term; then all that it ever said is past
(docs/safety.md, step 10). No clock decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.manifest import Manifest, Scheduling
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.calls import Behind, HeadIs
from dipaco.protocol.work.keeping import MAX_AHEAD, KeptAcceptance, Place, open_acceptance
from dipaco.protocol.work.tail import Final
from dipaco.protocol.work.terms import MAX_TERMS


def others_needed(schedule: Scheduling) -> int:
    """Return how many other keepers have one among them of each quorum that this one was in."""
    return len(schedule.named_keepers) - schedule.keeper_quorum + 1


def can_relearn(schedule: Scheduling) -> bool:
    """Return whether the other keepers are a quorum without this one."""
    return schedule.keeper_quorum < len(schedule.named_keepers)


@dataclass(frozen=True)
class Forgotten:
    """A keeper that may have signed and promised anything of terms below `term`."""

    term: int
    """The least in which it votes."""

    @classmethod
    def told(cls, manifest: Manifest, heads: Mapping[PeerId, HeadIs]) -> "Forgotten | None":
        """Return what the other keepers' answers say; None: too few of them remember.

        It signed in no term that none of them promised, and promised none that is more than
        `MAX_AHEAD` above.
        """
        terms = [answer.term for answer in heads.values() if answer.votes]
        if len(terms) < others_needed(manifest.schedule):
            return None
        return cls(max(terms) + MAX_AHEAD + 1)

    def may_vote(self, final: Final) -> bool:
        """Return whether a quorum has gone on without this keeper, which signed none of it."""
        return final.head.term >= self.term

    def least(self, final: Final) -> int:
        """Return the least term that the others are to go on in.

        They promise none that is too far above their chain's, so they come to `term` by way of
        another one.
        """
        return min(self.term, final.head.term + MAX_AHEAD // 2, MAX_TERMS)

    def refusing(self, final: Final, term: int) -> Behind:
        """Answer a scheduler of `term`: it is to go on in a higher one, without this keeper.

        Raises Unavailable where its term is high enough.
        """
        least = self.least(final)
        if term >= least:
            raise Unavailable("this keeper votes once the others have gone on without it")
        return Behind(term=least, head=final.head, final=final.head.length)


def newest_of(
    manifest: Manifest, run: Digest, final: Final, acceptances: Iterable[Signed]
) -> Sequence[KeptAcceptance]:
    """Return of each open path and round the newest acceptance that other keepers keep.

    Raises RemoteProtocolError for a wrong one.
    """
    newest: dict[Place, KeptAcceptance] = {}
    for signed in acceptances:
        each = open_acceptance(signed, manifest, run, most=MAX_TERMS)
        path, round_ = place = each.acceptance.place
        known = newest.get(place)
        if round_ > final.fold.path_version(path) and (known is None or each.rank > known.rank):
            newest[place] = each
    return tuple(newest.values())
