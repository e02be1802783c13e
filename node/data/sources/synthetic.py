"""Sources of kind `synthetic`: text with topics, computed from a revision and an index.

They serve tests and measurements without a corpus: any number of documents, each determined by its
index, the same on every machine. A document has one of `TOPICS` topics; most of its words are the
topic's own, the rest are common to all; in both sets some words are more frequent. Any change of
this module's output needs a new revision.
"""

import hashlib
from collections.abc import Iterator
from functools import cache

from dipaco.node.data.sources.interface import (
    Access,
    Pinning,
    Reach,
    RowRange,
    SourceKind,
    SourceRow,
    SourceTable,
)
from dipaco.node.jobs.meter import OnProgress
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.source import Count, Source
from dipaco.protocol.wire.digest import tagged, u32, u64

REVISION = "1"
TOPICS = 8
TOPIC_WORDS = 256  # of one topic's own
COMMON_WORDS = 128
MIN_WORDS = 60  # of a document: enough tokens to take part under any tokenizer
MAX_WORDS = 200
_TOPICAL = 180  # of 256: the share of words that are the topic's own

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")


def topic_of(index: int) -> int:
    """Return the topic of a document, 0 to TOPICS - 1."""
    return tagged("dipaco/1/synthetic-topic", REVISION.encode(), u64(index))[0] % TOPICS


def synthetic_text(index: int) -> str:
    """Return the text of document `index` (0 to 2^64 - 1)."""
    topic = topic_of(index)
    seed = tagged("dipaco/1/synthetic", REVISION.encode(), u64(index))
    noise = hashlib.shake_256(seed).digest(1 + 3 * MAX_WORDS)
    count = MIN_WORDS + noise[0] * (MAX_WORDS - MIN_WORDS) // 255
    words = []
    for place in range(count):
        kind, first, second = noise[1 + 3 * place : 4 + 3 * place]
        if kind < _TOPICAL:
            words.append(_word(topic * TOPIC_WORDS + _rank(first, second, TOPIC_WORDS)))
        else:
            words.append(_word(TOPICS * TOPIC_WORDS + _rank(first, second, COMMON_WORDS)))
    return "\n".join(_sentences(words))


def _rank(first: int, second: int, words: int) -> int:
    """Return the rank of a word, 0 to `words` - 1, from two uniform draws.

    Their product falls off as word frequencies do.
    """
    return first * second * words >> 16


@cache
def _word(number: int) -> str:
    """Return the spelling of word `number`: two or three of 128 syllables."""
    bits = int.from_bytes(tagged("dipaco/1/synthetic-word", u32(number))[:4], "little")
    syllables = []
    for _ in range(2 + bits % 2):
        bits, onset = divmod(bits >> 1, len(_ONSETS))
        bits, vowel = divmod(bits, len(_VOWELS))
        syllables.append(_ONSETS[onset] + _VOWELS[vowel])
    return "".join(syllables)


def _sentences(words: list[str]) -> Iterator[str]:
    for start in range(0, len(words), 12):
        yield " ".join(words[start : start + 12]).capitalize() + "."


class SyntheticTable(SourceTable, frozen=True, kw_only=True):
    """The table `source` of a run's TOML file."""

    documents: Count
    window: Count | None = None


def _pin(table: SyntheticTable, pinning: Pinning) -> Source:
    window = table.documents if table.window is None else table.window
    return Source(
        kind="synthetic", revision=REVISION, files=(), documents=table.documents, window=window
    )


def _check(source: Source) -> None:
    """Raise Unavailable if this version makes other documents."""
    if source.revision != REVISION:
        raise Unavailable(
            f"source.revision: the run names synthetic documents {source.revision}, this version "
            f"makes {REVISION}"
        )


def _open(source: Source, access: Access, on_progress: OnProgress) -> RowRange:
    _check(source)
    return _rows


def _rows(start: int, stop: int) -> Iterator[SourceRow]:
    for index in range(start, stop):
        yield {"index": index, "text": synthetic_text(index)}


def _reachable(source: Source, access: Access) -> Reach:
    try:
        _check(source)
    except Unavailable as error:
        return Reach(str(error), cure="install the version of this program that makes them")
    return Reach("synthetic: part of this program")


KIND = SourceKind(table=SyntheticTable, pin=_pin, open=_open, reachable=_reachable)
