"""Rules of this file: every target takes some inputs, and refuses others by its own errors alone.

`make fuzz` runs the same targets for as long as it is given, and measures time and memory, which
this file leaves alone: other processes run beside it.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from tests.fuzz import cbor, engine
from tests.fuzz.catalogue import CORPUS, chosen, saved_inputs, targets
from tests.fuzz.engine import inputs, judge, run_batch
from tests.fuzz.mutate import ATOMS, Cbor, Flat, Raw
from tests.fuzz.target import Target
from tests.fuzz.targets.wire import examples

INPUTS = 40  # of each target
MOST = 1024  # bytes of the largest ones
TARGETS = [replace(target, seconds=math.inf, limit=MOST) for target in targets().values()]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_bytes_of_others_lead_to_a_value_or_to_an_error_that_is_declared(target: Target) -> None:
    count = run_batch(target, 0, 0, size=INPUTS)
    assert count.inputs == INPUTS and not count.findings, count.findings


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_takes_a_seed(target: Target) -> None:
    taken = 0
    for seed in target.material[0]:
        with target.open() as call, suppress(*target.declared):
            call(seed)
            taken += 1
    assert taken


@pytest.mark.parametrize(
    ("target", "path"), list(saved_inputs()), ids=lambda each: getattr(each, "name", "")
)
def test_saved_inputs_do_no_harm(target: Target, path: Path) -> None:
    assert not judge(replace(target, seconds=math.inf), path.read_bytes())


def test_every_folder_of_the_corpus_is_of_a_target() -> None:
    named = {path.name.replace(".", "/", 1) for path in CORPUS.iterdir()}
    assert named and named <= set(targets())


# ------------------------------------------------------------------------------ the fuzzer itself


def planted(call: Callable[[bytes], object], seed: bytes = b"seed") -> Target:
    return Target("test/planted", lambda: (seed,), (RemoteProtocolError,), Raw, call=call)


def reasons(target: Target) -> str:
    return " ".join(finding.reason for finding in run_batch(target, 1, 0, size=3).findings)


def test_an_error_that_is_not_declared_is_found_with_its_input() -> None:
    def divide(data: bytes) -> None:
        if data[:1] == b"\xf3":
            raise ZeroDivisionError("planted")
        raise RemoteProtocolError("refused")

    (first, *_) = run_batch(planted(divide), 1, 0, size=5000).findings
    assert first.reason == "ZeroDivisionError: planted" and first.data[:1] == b"\xf3"
    assert judge(planted(divide), first.data) == first.reason


def test_an_input_that_takes_long_is_found() -> None:
    slow = replace(planted(lambda data: sum(range(200_000))), seconds=0.0001)
    assert " ms for " in reasons(slow)


def test_an_input_that_takes_much_memory_is_found() -> None:
    assert " bytes for " in reasons(planted(lambda data: bytes(engine.MEMORY_BASE + 10_000)))


def test_the_same_seed_and_batch_give_the_same_inputs() -> None:
    target = targets()["wire/TrainLease"]
    first, again, other = (list(inputs(target, 1, batch, 200)) for batch in (3, 3, 4))
    assert first == again != other


def test_a_group_a_name_or_all_can_be_chosen() -> None:
    assert {target.name for target in chosen("address")} == {"address/text", "address/record"}
    assert [target.name for target in chosen("wire/Ping")] == ["wire/Ping"]
    assert len(chosen("")) == len(targets()) > 90
    with pytest.raises(ValueError, match="no target or group is called cobbler"):
        chosen("cobbler")


# ------------------------------------------------------------------------------ mutators


@pytest.mark.parametrize("name", examples())
def test_the_tree_of_a_value_covers_its_bytes(name: str) -> None:
    for data in examples()[name]:
        tree = cbor.read(data)
        assert (tree.start, tree.end) == (0, len(data))
        for item in cbor.walk(tree):
            assert cbor.head(item.major, item.value) == data[item.start : item.body] or (
                item.major == cbor.SIMPLE and item.body - item.start in (1, 9)
            )


@given(seed=st.integers(0, 1 << 32))
def test_a_mutant_is_a_function_of_the_seed_and_of_bounded_size(seed: int) -> None:
    (data, *_) = examples()["TrainLease"]
    made, again = (Cbor((1, 16), [data]).mutated(data, Random(seed)) for _ in range(2))
    assert made == again and len(made) < 1 << 16


def test_a_blob_mostly_keeps_its_length() -> None:
    chance, data = Random(1), bytes(range(200))
    made = [Flat().mutated(data, chance) for _ in range(1000)]
    assert sum(len(each) == len(data) for each in made) > 850 and data not in made[:5]


def test_the_largest_inputs_have_about_the_size_that_is_asked_for() -> None:
    (data, *_) = examples()["TrainLease"]
    made = [Cbor().largest(data, 50_000, Random(n)) for n in range(300)]
    assert all(20_000 < len(each) < 60_000 for each in made)


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_the_largest_input_of_a_short_value_can_be_made(limit: int) -> None:
    (data, *_) = examples()["Ping"]
    assert all(Cbor().largest(data, limit, Random(n)) for n in range(300))


def test_many_items_can_stand_where_another_belongs() -> None:
    assert len(set(ATOMS)) > 100
