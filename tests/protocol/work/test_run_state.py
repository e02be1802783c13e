"""Rules of this file: a 2x2 run of two rounds is told entry by entry; what cannot follow is
refused and changes nothing."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import MAX_SHEETS_PER_WINDOW
from dipaco.protocol.run.manifest import Manifest, Reshard
from dipaco.protocol.run.modules import ModuleDigest, ModuleId
from dipaco.protocol.work.kinds import Evaluated, Evaluation, MomentsReplaced, Scored, Seeded, Sheet
from dipaco.protocol.work.ledger import Contribution, Entry, ModuleUpdated, Quantised, SpecAdopted
from dipaco.protocol.work.rounds import Rounds, Weights
from dipaco.protocol.work.run_state import MAX_REPLACED, RunState
from tests.values import digest, manifest, peer

MANIFEST = manifest()
TOP = MANIFEST.topology
ADOPTED = SpecAdopted(epoch=0, spec=digest("spec"))
SEEDED = Seeded(
    peer=peer("a"),
    states=tuple(
        ModuleDigest(module=m, digest=digest(f"{TOP.counterpart(m)} 0")) for m in TOP.modules
    ),
)


def updated(module: str, version: int, paths: Iterable[int] | None = None) -> ModuleUpdated:
    through = TOP.paths_through(ModuleId(module)) if paths is None else paths
    return ModuleUpdated(
        module=module,
        version=version,
        contributions=tuple(
            Contribution(
                path=p,
                peer=peer("a"),
                delta=digest(f"{p}"),
                weight=1,
                moments=digest(f"moments of {p} {module} {version}"),
            )
            for p in through
        ),
        state=digest(f"{module} {version}"),
        momentum=digest(f"momentum of {module} {version}"),
    )


def without_moments(entry: ModuleUpdated) -> ModuleUpdated:
    bare = tuple(replace(each, moments=None) for each in entry.contributions)
    return replace(entry, contributions=bare)


def evaluated(path: int, version: int) -> Evaluated:
    return Evaluated(
        path=path,
        version=version,
        peer=peer("a"),
        evaluation=Evaluation(documents=2, tokens=20, nll=50.0 + version),
    )


def whole_run() -> Iterator[Entry]:
    yield from (ADOPTED, SEEDED)
    yield from (evaluated(path, 0) for path in range(4))
    for version in (1, 2):
        yield from (updated(module, version) for module in TOP.modules)
        yield from (evaluated(path, version) for path in range(4))


def view(entries: Iterable[Entry]) -> RunState:
    built = RunState(MANIFEST)
    for entry in entries:
        built.apply(entry)
    return built


def facts(told: RunState) -> tuple[object, ...]:
    states = {module: tuple(versions) for module, versions in told.states.items()}
    moments = {place: tuple(each.items()) for place, each in told.moments.items()}
    return told.spec, states, dict(told.momenta), moments, dict(told.evaluations)


def rounds(told: RunState, weights: Weights = (1, 1, 1, 1)) -> Rounds:
    return Rounds(told, lambda spec: weights)


def test_before_the_seed_there_is_nothing() -> None:
    empty = view([ADOPTED])
    assert empty.spec == digest("spec") and not empty.seeded
    assert empty.version(ModuleId("stem")) == empty.path_version(3) == -1
    assert not rounds(empty).finished


def test_the_seed_makes_version_0_of_every_module() -> None:
    seeded = view([ADOPTED, SEEDED])
    assert {seeded.version(module) for module in TOP.modules} == {0}
    assert seeded.path_states(1, 0) == tuple(
        (module, digest(f"{TOP.counterpart(ModuleId(module))} 0"))
        for module in ("stem", "L1.E0", "L2.E1")
    )
    assert not seeded.momenta


def test_a_path_stands_where_its_slowest_module_stands() -> None:
    told = view([ADOPTED, SEEDED, updated("stem", 1), updated("L1.E0", 1), updated("L2.E0", 1)])
    assert [told.path_version(path) for path in range(4)] == [1, 0, 0, 0]
    assert told.momenta[ModuleId("stem")] == digest("momentum of stem 1")


def test_a_path_goes_on_from_its_own_moments_of_the_round_before() -> None:
    told = view([ADOPTED, SEEDED])
    assert told.path_moments(1, 1) == ()
    for module in ("L1.E0", "L2.E1", "stem"):
        told.apply(updated(module, 1))
    first = tuple((m, digest(f"moments of 1 {m} 1")) for m in ("stem", "L1.E0", "L2.E1"))
    assert told.path_moments(1, 2) == first
    assert told.path_moments(0, 2) == ()  # L2.E0 has not stepped
    told.apply(updated("L2.E1", 2))
    assert told.path_moments(1, 2) == first  # if round 2 is trained again
    assert told.path_moments(1, 3)[2] == ("L2.E1", digest("moments of 1 L2.E1 2"))


def test_where_every_round_begins_anew_no_contribution_has_moments() -> None:
    training = replace(MANIFEST.training, inner_state="reset")
    told = RunState(replace(MANIFEST, training=training))
    for entry in (ADOPTED, SEEDED, without_moments(updated("stem", 1))):
        told.apply(entry)
    assert not told.moments and told.path_moments(0, 2) == ()
    with pytest.raises(RemoteProtocolError, match="must have moments exactly where"):
        told.apply(updated("L1.E0", 1))


def test_a_run_is_finished_when_all_versions_of_all_live_paths_are_evaluated() -> None:
    entries = list(whole_run())
    assert rounds(view(entries)).finished
    assert not rounds(view(entries[:-1])).finished
    assert rounds(view(entries[:-1]), (1, 1, 1, 0)).finished  # path 3 has no data


def test_the_last_evaluation_is_that_of_the_newest_version_that_all_live_paths_have() -> None:
    entries = list(whole_run())
    told = [each for each in entries if isinstance(each, Evaluated)]
    assert rounds(view(entries)).last_evaluated() == tuple(told[-4:])
    assert told[-1].version == 2
    assert rounds(view(entries[:-1])).last_evaluated() == tuple(told[-8:-4])
    assert rounds(view(entries[:-1]), (1, 1, 1, 0)).last_evaluated() == tuple(told[-4:-1])
    assert rounds(view([ADOPTED, SEEDED, evaluated(0, 0)])).last_evaluated() == ()


# ---------------------------------------------------------------------- re-sharding


def resharding() -> Manifest:
    routing = replace(MANIFEST.routing, router_bp=1000, reshard=Reshard(after_round=1))
    return replace(MANIFEST, routing=routing)


def scored(path: int, window: int = 0, documents: int = 9, who: str = "a") -> Scored:
    sheet = Sheet(digest=digest(f"sheet {path} {who}"), documents=documents)
    return Scored(path=path, window=window, peer=peer(who), sheet=sheet)


NEXT = SpecAdopted(epoch=1, spec=digest("next"))
FIRST_ROUND: list[Entry] = [ADOPTED, SEEDED, *(updated(module, 1) for module in TOP.modules)]
SCORED: list[Entry] = [*FIRST_ROUND, *map(scored, range(4))]


def resharded(entries: Iterable[Entry]) -> RunState:
    told = RunState(resharding())
    for entry in entries:
        told.apply(entry)
    return told


def test_sheets_are_told_path_by_path_and_the_switch_opens_the_next_round() -> None:
    told = resharded([*SCORED, scored(2, who="b")])
    assert [each.path for each in told.sheets()] == [0, 1, 2, 2, 3]
    with pytest.raises(RemoteProtocolError, match="out of its epoch"):
        told.apply(updated("stem", 2))
    told.apply(NEXT)
    assert (told.epoch, told.spec, told.specs[0]) == (1, digest("next"), digest("spec"))
    told.apply(updated("stem", 2))


def test_a_module_that_nobody_trained_stands_with_the_others_after_the_switch() -> None:
    trained = [entry for entry in FIRST_ROUND if entry != updated("L2.E1", 1)]
    told = resharded([*trained, scored(0), scored(2), NEXT])
    states = told.states[ModuleId("L2.E1")]
    assert states == [digest("L2.E0 0")] * 2 and told.path_version(1) == 1
    assert told.path_moments(1, 2) == ()  # it begins anew
    told.apply(updated("L2.E1", 2))


def test_before_the_new_router_is_evaluated_the_last_evaluation_is_by_the_old_one() -> None:
    old = [evaluated(path, 1) for path in range(4)]
    entries = [*SCORED, *(evaluated(path, 0) for path in range(4)), *old, NEXT]
    told = resharded(entries)
    assert Rounds(told, lambda _: (1,) * 4).last_evaluated() == tuple(old)


MISPLACED = [
    (len(SCORED), replace(NEXT, epoch=2), "epoch 2, where epoch 1 is next"),
    (len(SCORED), replace(NEXT, epoch=0), "epoch 0, where epoch 1 is next"),
    (1, NEXT, "second spec at version -1, where the manifest says 1"),
    (len(FIRST_ROUND) - 1, scored(3), "path 3, window 0: the path is not at version 1"),
    (len(FIRST_ROUND), scored(4), "path 4, window 0: the path does not exist"),
    (len(FIRST_ROUND), scored(0, window=1), "path 0, window 1: the run asks for no such"),
    (
        len(FIRST_ROUND),
        scored(0, documents=resharding().most_scored + 1),
        "it has more documents than a window may have",
    ),
    (len(SCORED), scored(0), "gave one before"),
]


@pytest.mark.parametrize(("after", "entry", "words"), MISPLACED)
def test_scores_and_switches_out_of_place_are_refused_and_change_nothing(
    after: int, entry: Entry, words: str
) -> None:
    told = resharded(SCORED[:after])
    before = (facts(told), told.sheets(), list(told.specs))
    with pytest.raises(RemoteProtocolError, match=words):
        told.apply(entry)
    assert (facts(told), told.sheets(), list(told.specs)) == before


def test_one_sheet_too_many_is_refused_and_so_is_any_after_the_switch() -> None:
    told = resharded(FIRST_ROUND)
    for number in range(MAX_SHEETS_PER_WINDOW):
        told.apply(scored(0, who=f"v{number}"))
    with pytest.raises(RemoteProtocolError, match=f"{MAX_SHEETS_PER_WINDOW} peers gave one before"):
        told.apply(scored(0, who="one more"))
    with pytest.raises(RemoteProtocolError, match="the run asks for no such scores now"):
        resharded([*SCORED, NEXT]).apply(scored(0, who="late"))


def test_a_run_that_does_not_re_shard_has_neither_scores_nor_a_second_spec() -> None:
    for entry in (NEXT, scored(0)):
        with pytest.raises(RemoteProtocolError):
            view(FIRST_ROUND).apply(entry)


OUT_OF_PLACE = [
    (0, SEEDED, "seed model is out of place"),
    (0, updated("stem", 1), "cannot take version 1"),
    (0, evaluated(0, 0), "does not exist"),
    (1, ADOPTED, "epoch 0, where epoch 1 is next"),
    (1, replace(SEEDED, states=SEEDED.states[1:]), "does not name every module in order"),
    (1, replace(SEEDED, states=SEEDED.states[::-1]), "does not name every module in order"),
    (1, replace(SEEDED, states=SEEDED.states[:1] * 5), "does not name every module in order"),
    (2, SEEDED, "out of place"),
    (2, updated("stem", 2), "cannot take version 2"),
    (2, updated("nothing", 1, [0]), "cannot take version 1"),
    (2, updated("L1.E0", 1, [0, 2]), "other paths"),
    (2, updated("L1.E0", 1, [1, 0]), "other paths"),
    (2, updated("L1.E0", 1, [0, 0]), "other paths"),
    (2, without_moments(updated("stem", 1)), "must have moments exactly where"),
    (2, evaluated(4, 0), "does not exist"),
    (2, evaluated(0, 1), "does not exist"),
    (6, evaluated(0, 0), "twice"),
    (15, updated("stem", 1), "cannot take version 1"),
    (24, updated("stem", 3), "past the run's last round"),
]


@pytest.mark.parametrize(("after", "entry", "words"), OUT_OF_PLACE)
def test_an_entry_that_cannot_follow_is_refused_and_changes_nothing(
    after: int, entry: Entry, words: str
) -> None:
    told = view(list(whole_run())[:after])
    before = facts(told)
    with pytest.raises(RemoteProtocolError, match=words):
        told.apply(entry)
    assert facts(told) == before


@settings(max_examples=25)
@given(st.permutations(TOP.modules), st.permutations(range(4)))
def test_modules_and_evaluations_may_come_in_any_order(
    modules: list[ModuleId], paths: list[int]
) -> None:
    told = view(
        [
            ADOPTED,
            SEEDED,
            *(updated(module, version) for module in modules for version in (1, 2)),
            *(evaluated(path, version) for path in paths for version in (2, 0, 1)),
        ]
    )
    assert rounds(told).finished
    assert facts(told) == facts(view(whole_run()))


def packed(entry: ModuleUpdated) -> ModuleUpdated:
    name = f"{entry.module} {entry.version}"
    return replace(
        entry,
        quantised=Quantised(update=digest(f"update {name}"), residual=digest(f"residual {name}")),
    )


@pytest.mark.parametrize(("updates", "known"), [("int8", 3), ("int4", 7)])
def test_updates_lead_back_as_far_as_they_are_less_than_a_state(updates: str, known: int) -> None:
    training = replace(MANIFEST.training, updates=updates, rounds=9)
    followed = RunState(replace(MANIFEST, training=training))
    for entry in (ADOPTED, SEEDED):
        followed.apply(entry)
    stem = ModuleId("stem")
    assert followed.residual(stem) is None and not list(followed.back_from(stem, 0))
    for version in range(1, 10):
        followed.apply(packed(updated("stem", version)))
        assert followed.residual(stem) == digest(f"residual stem {version}")
    expected = [
        (digest(f"update stem {v}"), digest(f"stem {v - 1}")) for v in range(9, 9 - known, -1)
    ]
    assert list(followed.back_from(stem, 9)) == expected
    assert list(followed.back_from(stem, 2)) == [
        (digest("update stem 2"), digest("stem 1")),
        (digest("update stem 1"), digest("stem 0")),
    ]


def test_updates_are_packed_exactly_where_the_manifest_says_so() -> None:
    whole = view((ADOPTED, SEEDED))
    with pytest.raises(RemoteProtocolError, match="packed update"):
        whole.apply(packed(updated("stem", 1)))
    small = RunState(replace(MANIFEST, training=replace(MANIFEST.training, updates="int4")))
    for entry in (ADOPTED, SEEDED):
        small.apply(entry)
    with pytest.raises(RemoteProtocolError, match="packed update"):
        small.apply(updated("stem", 1))
    assert not list(whole.back_from(ModuleId("stem"), 0))


def test_moments_that_were_made_again_are_those_that_the_path_goes_on_from() -> None:
    built = view(entry for entry in whole_run() if getattr(entry, "version", 0) <= 1)
    names = TOP.path_modules[1]
    named = tuple(ModuleDigest(module=m, digest=digest(f"again {m}")) for m in names)
    entry = MomentsReplaced(path=1, round=1, peer=peer("b"), moments=named)
    for wrong in (replace(entry, round=2), replace(entry, moments=named[:-1])):
        with pytest.raises(RemoteProtocolError, match="moments of path 1"):
            built.apply(wrong)
    others = built.path_moments(0, 2)
    built.apply(entry)
    assert built.path_moments(1, 2) == tuple((m, digest(f"again {m}")) for m in names)
    assert built.path_moments(0, 2) == others and not built.path_moments(1, 1)
    for _ in range(MAX_REPLACED - 1):
        built.apply(entry)
    with pytest.raises(RemoteProtocolError, match="replaced 8 times"):
        built.apply(entry)
    assert not built.may_replace(1, 1) and built.may_replace(0, 1)


def with_steps(entry: ModuleUpdated, steps: int) -> ModuleUpdated:
    counted = tuple(replace(each, steps=steps) for each in entry.contributions)
    return replace(entry, contributions=counted)


def test_the_steps_that_moments_have_seen_grow_by_a_whole_round_or_not_at_all() -> None:
    tau = MANIFEST.training.inner_steps
    told = view([ADOPTED, SEEDED])
    for wrong in (1, 2 * tau):
        with pytest.raises(RemoteProtocolError, match=f"cannot have seen {wrong} inner steps"):
            told.apply(with_steps(updated("stem", 1), wrong))
    told.apply(with_steps(updated("stem", 1), tau))
    with pytest.raises(RemoteProtocolError, match="cannot have seen 0"):
        told.apply(updated("L1.E0", 1))  # the same path, the same round
    for module in TOP.modules[1:]:
        told.apply(with_steps(updated(module, 1), tau))
    assert [told.steps_before(0, round_) for round_ in (1, 2, 3)] == [0, tau, tau]
    with pytest.raises(RemoteProtocolError, match="cannot have seen 0"):
        told.apply(updated("stem", 2))
    told.apply(with_steps(updated("stem", 2), tau))  # a round without a document
    assert told.steps_before(0, 3) == tau
