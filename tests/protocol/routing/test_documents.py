"""Rules of this file: cutting is held against decoding."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipaco.protocol.routing.documents import cut, is_eligible, prefix_of


@settings(derandomize=True, deadline=None)
@given(st.text(max_size=12), st.integers(0, 50))
def test_a_cut_keeps_as_many_whole_characters_as_fit(text: str, limit: int) -> None:
    kept = cut(text.encode(), limit).decode()
    assert text.startswith(kept) and len(kept.encode()) <= limit
    longer = text[: len(kept) + 1]
    assert kept == text or len(longer.encode()) > limit


def test_a_document_is_eligible_from_its_least_length_on() -> None:
    assert not is_eligible([0] * 39, 40)
    assert is_eligible([0] * 40, 40)


def test_the_prefix_is_the_first_tokens_and_a_shorter_document_has_none() -> None:
    assert prefix_of([5, 6, 7, 8], 3) == [5, 6, 7]
    with pytest.raises(ValueError, match="2 tokens where the prefix has 3"):
        prefix_of([5, 6], 3)
