"""Rules of this file: the library's own ids are right, whatever the text."""

import json
from collections.abc import Sequence

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dipaco.node.data import pretokens
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.pretokens import WordEncoder, merges_words
from dipaco.node.data.tokenizers import GOLDEN_TEXT
from tests.node.data.corpora import texts

PATH = embedded_tokenizer_path(embedded_tokenizer().sha256)
assert PATH is not None
STATED = json.loads(PATH.read_text())


def tokenizer(**changes: object) -> tokenizers.Tokenizer:
    """Return the embedded tokenizer with parts of its file replaced."""
    made = tokenizers.Tokenizer.from_str(json.dumps(STATED | changes))
    made.encode_special_tokens = True
    return made


EMBEDDED = tokenizer()


def plainly(batch: Sequence[str]) -> list[list[int]]:
    return [each.ids for each in EMBEDDED.encode_batch_fast(list(batch), add_special_tokens=False)]


by_words = WordEncoder(EMBEDDED, plainly)
TRICKY = (
    "don't I'LL 've'd it''s  two   three\n\n four \t\x0b\x0c\x1c\x1f\x85\xa0\u2003x \u2028y",
    " '", "'s", " 's", "a's's", "\u00b2\u00bd9x_9", "\u1680 \u200b\u2060a", "<|endoftext|>",
    "\u0378", "e\u0301\u0327 \u0639\u0631\u0628\u064a \u05e2", "\x00\x7f\x80\x9f\xad",
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.lists(
        st.text(
            st.one_of(
                st.sampled_from(" \n\t\r'stdmrevl.,!?_-09aZ\xa0\u2003\u2019\u00e9\u0301"),
                st.characters(max_codepoint=0x20FF, codec="utf-8"),
                st.characters(codec="utf-8"),
            ),
            max_size=30,
        ),
        max_size=6,
    )
)
@example([GOLDEN_TEXT, "", *TRICKY])
def test_words_give_the_ids_of_the_library(batch: list[str]) -> None:
    assert by_words(batch) == plainly(batch)


def test_every_character_that_is_taken_by_words_gives_the_ids_of_the_library() -> None:
    """Beside a letter, a space, a digit and a mark: its class decides where words end."""
    batch = [f"a{c}b {c}{c} 1{c}2 .{c}.  {c}" for c in map(chr, range(0x2100))]
    assert by_words(batch) == plainly(batch)


def test_documents_give_the_ids_of_the_library_and_little_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretokens, "_KEPT_WORDS", 50)
    encoder = WordEncoder(EMBEDDED, plainly)
    for start in range(0, 100, 10):
        batch = [*texts(start + 10)[start:], "x" * 5000]
        assert encoder(batch) == plainly(batch)
        assert len(encoder._known) <= 50
        assert all(len(word) <= 32 for word in encoder._known)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": STATED["pre_tokenizer"] | {"add_prefix_space": True}},
        {"pre_tokenizer": STATED["pre_tokenizer"] | {"use_regex": False}},
        {"model": STATED["model"] | {"dropout": 0.1}},
        {"model": STATED["model"] | {"ignore_merges": True}},
        {"added_tokens": [STATED["added_tokens"][0] | {"special": False}]},
    ],
)
def test_other_tokenizers_are_left_to_the_library(changes: dict[str, object]) -> None:
    assert merges_words(EMBEDDED)
    assert not merges_words(tokenizer(**changes))
