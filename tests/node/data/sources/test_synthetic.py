"""Rules of this file: nothing but values; what is known of a document is known for ever."""

import pytest
from msgspec.structs import replace

from dipaco.node.data.sources.dispatch import reachable, rows
from dipaco.node.data.sources.interface import Access, Reach
from dipaco.node.data.sources.synthetic import TOPICS, synthetic_text, topic_of
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.source import Source
from dipaco.protocol.wire.digest import sha256
from tests.node.data.corpora import synthetic


def read(source: Source, start: int, stop: int) -> list[tuple[int, str]]:
    found = rows(source, start=start, stop=stop, access=Access())
    return [(row["index"], row["text"]) for row in found]


def test_a_synthetic_document_is_known_by_its_index_for_ever() -> None:
    assert sha256(synthetic_text(0).encode()).hex()[:16] == "6c387cadaceb3052"
    assert sha256(synthetic_text((1 << 64) - 1).encode()).hex()[:16] == "914d5cff43af0dcc"
    assert read(synthetic(400), 321, 322) == [(321, synthetic_text(321))]


def test_synthetic_documents_have_topics() -> None:
    words: dict[int, set[str]] = {topic: set() for topic in range(TOPICS)}
    for index in range(100):
        words[topic_of(index)].update(synthetic_text(index).lower().replace(".", "").split())
    shared = set.intersection(*words.values())
    assert all(len(shared) < len(own) / 2 for own in words.values())


def test_synthetic_documents_of_another_revision_are_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"source\.revision"):
        read(replace(synthetic(5), revision="2"), 0, 5)
    found = reachable(replace(synthetic(5), revision="2"), Access())
    assert "source.revision" in found.words and found.cure


def test_synthetic_documents_are_always_here() -> None:
    assert reachable(synthetic(5), Access()) == Reach("synthetic: part of this program")
