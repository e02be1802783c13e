"""Rules of this file: labels against a plain reading of docs/method.md, section 5, by the document;
what a sheet of a stranger may hold."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.labels import (
    MAX_SCORE,
    NO_LABEL,
    NOT_SCORED,
    Scores,
    agree,
    contradictions,
    label_bytes,
    labels_of,
    quantised,
    read_sheet,
    sheet_bytes,
    standing,
)

MARGIN = 16
TOLERANCE = 4


def array(*scores: int) -> Scores:
    return np.array(scores, dtype=np.int32)


def slow_label(column: list[int], margin: int) -> int:
    """Return one document's label: column, per path its score or -1."""
    scored = sorted((score, path) for path, score in enumerate(column) if score >= 0)
    if len(scored) < 2 or scored[1][0] - scored[0][0] <= margin:
        return NO_LABEL
    return scored[0][1]


@pytest.mark.parametrize(
    ("nll", "tokens", "score"),
    [(0.0, 0, -1), (0.0, 3, 0), (1.0, 1, 1024), (3.0, 2, 1536), (0.5 / 1024, 1, 1), (1e12, 1, -2)],
)
def test_a_score_is_the_mean_in_1024ths_of_a_nat_halves_up(
    nll: float, tokens: int, score: int
) -> None:
    assert quantised(nll, tokens) == (MAX_SCORE if score == -2 else score)


@settings(max_examples=200)
@given(
    st.integers(1, 5).flatmap(
        lambda paths: st.lists(
            st.lists(st.integers(-1, 40), min_size=paths, max_size=paths), min_size=1, max_size=8
        )
    ),
    st.integers(0, 20),
)
def test_labels_are_the_slow_reading_s(columns: list[list[int]], margin: int) -> None:
    sheets = [(path, array(*scores)) for path, scores in enumerate(zip(*columns, strict=True))]
    found = labels_of(sheets, len(columns), margin=margin)
    assert found.tolist() == [slow_label(column, margin) for column in columns]
    backwards = labels_of(reversed(sheets), len(columns), margin=margin)
    assert backwards.tolist() == found.tolist()  # ties have no label, so order decides nothing


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(*[st.integers(TOLERANCE, 200) for _ in range(4)]), min_size=1, max_size=8
    ).map(lambda rows: np.array(rows, dtype=np.int32).T),
    st.data(),
)
def test_honest_scorers_never_give_two_labels(true: Scores, data: st.DataObject) -> None:
    """Each is within the tolerance of the truth: a label of one is the other's best path."""
    shape, within = true.shape, st.integers(-TOLERANCE, TOLERANCE)
    off = [
        np.array(data.draw(st.lists(within, min_size=true.size, max_size=true.size))).reshape(shape)
        for _ in range(2)
    ]
    first, second = ((true + each).astype(np.int32) for each in off)
    assert all(agree(ours, theirs, TOLERANCE) for ours, theirs in zip(first, second, strict=True))
    labels = labels_of(enumerate(first), true.shape[1], margin=4 * TOLERANCE)
    given_ = labels != NO_LABEL
    assert (labels[given_] == second.argmin(axis=0)[given_]).all()


def test_a_contradiction_is_twice_the_tolerance_or_a_document_that_only_one_scored() -> None:
    ours = array(100, 100, 100, NOT_SCORED, NOT_SCORED, 3)
    theirs = array(108, 109, 91, NOT_SCORED, 0, NOT_SCORED)
    assert contradictions(ours, theirs, TOLERANCE).tolist() == [1, 2, 4, 5]
    assert not agree(ours, theirs[:5], TOLERANCE)
    assert agree(array(0), array(MAX_SCORE), MAX_SCORE)  # no 32-bit difference wraps


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(9),
        bytes(12),
        sheet_bytes([5, -2]),
        sheet_bytes([5, MAX_SCORE + 1]),
        b"\xff\xff\xff\x7f" * 2,
        b"\x00\x00\x00\x80" * 2,
    ],
)
def test_what_is_no_sheet_of_two_documents_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_sheet(data, 2)


def test_a_sheet_is_read_as_it_was_written() -> None:
    scores = [NOT_SCORED, 0, 1, 4096, MAX_SCORE]
    assert read_sheet(sheet_bytes(scores), 5).tolist() == scores
    assert read_sheet(b"", 0).tolist() == []
    assert sheet_bytes([1, -1]) == b"\x01\x00\x00\x00\xff\xff\xff\xff"
    assert label_bytes(np.array([1, NO_LABEL], dtype=np.uint16)) == b"\x01\x00\xff\xff"


@settings(max_examples=200)
@given(st.lists(st.integers(0, 30), max_size=6), st.integers(1, 3))
def test_the_earliest_sheet_with_a_majority_behind_it_stands(values: list[int], asked: int) -> None:
    def agrees(i: int, j: int) -> bool:
        assert i < j
        return abs(values[i] - values[j]) <= 8

    found = standing(len(values), agrees, scorers=asked)
    behind = [
        [j for j, v in enumerate(values) if abs(v - values[i]) <= 8] for i in range(len(values))
    ]
    enough = [b for b in behind if len(b) >= asked and 2 * len(b) > len(values)]
    assert (list(found) if found is not None else None) == (enough[0] if enough else None)


def test_one_lie_beside_two_that_agree_is_out_voted_wherever_it_comes() -> None:
    for lie in range(3):
        values = [10, 12, 11]
        values[lie] = 500
        found = standing(3, lambda i, j: abs(values[i] - values[j]) <= 8, scorers=2)  # noqa: B023
        assert found == tuple(i for i in range(3) if i != lie)
    for pair in combinations((10, 500), 2):
        assert standing(2, lambda i, j: abs(pair[i] - pair[j]) <= 8, scorers=2) is None  # noqa: B023
