"""Rules of this file: three keepers, two chains of term 0, and every record that begins term 1 by
any two promises. Every order of every message is tried, each any number of times: what can be sent
at a moment may be sent at any later one. Certified heads must lie on one chain.

A keeper's answers depend on its own state alone, so each is worked out once; states, promises and
heads are numbered. Each rule of a keeper is broken in turn, and the search finds what is lost then.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import NamedTuple

import pytest

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work import keeping, ledger
from dipaco.protocol.work.calls import AskPromise, Behind, CosignedHead, Promised
from dipaco.protocol.work.keeping import Decision, Keeper, KeeperState
from dipaco.protocol.work.tail import Final
from dipaco.protocol.work.terms import Head, Promise
from tests.protocol.work.keepers import (
    KEEPERS,
    Holder,
    Records,
    begun,
    extended,
    head_of,
)

TERM = 1
FIRST = tuple(extended((), term=0, salt=salt) for salt in "ab")


class World(NamedTuple):
    """The chains of all keepers, and all that they have signed, by numbers of `Search`."""

    holders: tuple[int, ...] = (0,) * len(KEEPERS)
    promises: frozenset[int] = frozenset()
    cosigned: frozenset[tuple[int, int]] = frozenset()
    """Head and keeper."""


class Search:
    """All worlds that can be reached, until two certified heads contradict each other."""

    def __init__(self) -> None:
        self.states = [[Holder(name)] for name in KEEPERS]
        self.ledgers: list[Records] = list(FIRST)
        self.heads: dict[Head, int] = {head_of(each): n for n, each in enumerate(FIRST)}
        self.promises: list[tuple[Promise, Signed]] = []
        self.promise = cache(self._promise)
        self.cosign = cache(self._cosign)
        self.sent = cache(self._sent)
        self.most_certified = 0

    def run(self) -> int:
        """Return the number of worlds; raises AssertionError for a final record that is lost."""
        seen, due = {World()}, [World()]
        while due:
            for world in self._after(due.pop()):
                if world not in seen:
                    seen.add(world)
                    due.append(world)
                    self._check(world)
        return len(seen)

    def _after(self, world: World) -> Iterator[World]:
        for keeper, state in enumerate(world.holders):
            before, after = world.holders[:keeper], world.holders[keeper + 1 :]
            then, promise = self.promise(keeper, state)
            if promise is not None:
                holders, promises = (*before, then, *after), world.promises | {promise}
                yield World(holders, promises, world.cosigned)
            for head in self.sent(world.promises):
                then, signed = self.cosign(keeper, state, head)
                if signed:
                    cosigned = world.cosigned | {(head, keeper)}
                    yield World((*before, then, *after), world.promises, cosigned)

    def _check(self, world: World) -> None:
        counted = [head for head, _ in world.cosigned]
        final = [self.ledgers[n] for n in set(counted) if counted.count(n) >= 2]
        self.most_certified = max(self.most_certified, len(final))
        for one, other in combinations(final, 2):
            short = min(len(one), len(other))
            assert one[:short] == other[:short], "two final records of one number"

    def _promise(self, keeper: int, state: int) -> tuple[int, int | None]:
        holder = replace(self.states[keeper][state])
        reply = holder.promise(TERM)
        if not isinstance(reply, Promised):
            return state, None
        given = open_signed(reply.promise, Promise), reply.promise
        if given not in self.promises:
            self.promises.append(given)
        return self._number(keeper, holder), self.promises.index(given)

    def _cosign(self, keeper: int, state: int, head: int) -> tuple[int, bool]:
        holder = replace(self.states[keeper][state])
        try:
            reply = holder.cosign(self.ledgers[head])
        except RemoteProtocolError:
            return state, False
        return self._number(keeper, holder), isinstance(reply, CosignedHead)

    def _number(self, keeper: int, holder: Holder) -> int:
        known = self.states[keeper]
        if all(each.state != holder.state for each in known):
            known.append(holder)
        return next(n for n, each in enumerate(known) if each.state == holder.state)

    def _sent(self, promises: frozenset[int]) -> tuple[int, ...]:
        """Return every ledger that schedulers may have signed once these promises are given."""
        found = list(range(len(FIRST)))
        for pair in combinations(sorted(promises), 2):
            (one, first), (other, second) = (self.promises[number] for number in pair)
            if one.keeper == other.keeper:
                continue
            for head in {one.head, other.head}:
                base = self.ledgers[self.heads[head]] if head.length else ()
                records = begun(base, TERM, (first, second))
                if head_of(records) not in self.heads:
                    self.heads[head_of(records)] = len(self.ledgers)
                    self.ledgers.append(records)
                found.append(self.heads[head_of(records)])
        return tuple(found)


@pytest.mark.slow
def test_no_order_of_messages_loses_a_final_record() -> None:
    search = Search()
    assert search.run() > 1000 and search.most_certified == 2


def no_check(promises: object, head: object, digest_of: object) -> None:
    """Take any head for the one that promises choose."""


def highest_only(promises: Iterable[Promise], head: Head, digest_of: object) -> None:
    """Forget that promises may contradict each other."""
    assert max(each.head.rank for each in promises) == head.rank


def forgotten(state: KeeperState, head: Head) -> int:
    """Forget what was promised."""
    return head.term


honest_promise = Keeper.promise


def without_its_tail(
    self: Keeper, state: KeeperState, final: Final, asker: PeerId, ask: AskPromise
) -> Decision[Promised | Behind]:
    """Promise with the head of what is final, whatever was signed after it."""
    return honest_promise(self, replace(state, tail=()), final, asker, ask)


@pytest.mark.parametrize(
    ("place", "name", "broken"),
    [
        (ledger, "check_choice", no_check),
        (ledger, "check_choice", highest_only),
        (keeping, "_term", forgotten),
        (Keeper, "promise", without_its_tail),
    ],
    ids=["any-head", "no-contradiction", "forgets-promises", "forgets-tail"],
)
def test_the_search_finds_each_rule_that_is_broken(
    place: object, name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError):
        Search().run()
