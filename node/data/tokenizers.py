"""Tokenizers: loads a `tokenizers` JSON file by its digest, and checks it before use.

Text becomes ids and nothing else: no special token is added, and text that spells an added token,
special or not, is ordinary text, so no document can insert an end of text. The library raises the
bare `Exception`, and `PanicException` where its Rust code panics; `library_errors` translates both.
Only worker processes and verbs use this module.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.pretokens import WordEncoder, merges_words
from dipaco.node.data.text_bytes import IdBytes, bytes_per_id
from dipaco.node.storage.blobs import BlobMissing, BlobStore
from dipaco.node.storage.files import read_file
from dipaco.protocol.errors import ConfigError, LocalProtocolError, Refusal, Unavailable
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.wire.digest import sha256, short, u32
from dipaco.protocol.wire.text import one_line

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 64 << 20  # the manifest's own bound

CHECK_EVERY = 16  # batches; in one of them a text is compared with the library's ids
CHECK_CHARACTERS = 4096

GOLDEN_TEXT = "The naïve café—42 \t\r\n¿Qué? 日本語 😀 <|endoftext|> def f(x): return x**2  \x00'll"
GOLDEN_IDS = {
    # SHA-256 of the ids as u32 little-endian, by digest of the tokenizer file.
    embedded_tokenizer().sha256: "710e927c5e79ebbf6ac61ab51da6e60192a39fbfdd98802900b08a4c40af4dad",
}
RARE_TEXT = "\ue000 \U0010fffd \u16a0 \u00d8"
"""Characters for private use, which no vocabulary has, and two that small ones lack."""
PANIC = "PanicException"  # of code in Rust: no Exception, and it cannot be imported
NO_IDS = "no ids for a text, and a run needs them for every text"


class BadText(Refusal):
    """The library finds no ids for a text; `place` is the text's place in its batch."""

    def __init__(self, reason: str, place: int) -> None:
        super().__init__(reason)
        self.place = place


@contextmanager
def library_errors(failed: str) -> Iterator[None]:
    """Turn whatever the library raises into Refusal; failed: the words for it."""
    try:
        yield
    except (MemoryError, Refusal, LocalProtocolError):
        raise
    except BaseException as error:  # it raises the bare Exception, or a class without a module
        if not (isinstance(error, Exception) or type(error).__name__ == PANIC):
            raise
        raise Refusal(f"tokenizer: {failed}: {one_line(str(error))}") from error


class TextEncoder:
    """A tokenizer that passed its checks; `load_tokenizer` returns one."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer", pinned: Tokenizer) -> None:
        self.tokenizer = tokenizer
        """The library's own object; it raises errors that only this class translates."""
        self._words = WordEncoder(tokenizer, self._encoded) if merges_words(tokenizer) else None
        self._batches = 0
        self.end_of_text = pinned.end_of_text
        self.vocabulary = pinned.vocabulary

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text.

        Raises BadText if the library fails on a text, LocalProtocolError if the fast encoding and
        the library's differ on this machine: then no result of this process may be used.
        """
        if self._words is None:
            return self.plainly(texts)
        if self._batches % CHECK_EVERY == 0 and texts:
            sample = [texts[0][:CHECK_CHARACTERS]]
            if self._by_words(sample) != self.plainly(sample):
                raise LocalProtocolError(
                    "tokenizer: word by word its ids differ from the library's: please report it"
                )
        self._batches += 1
        return self._by_words(texts)

    def _by_words(self, texts: Sequence[str]) -> list[list[int]]:
        assert self._words is not None
        try:
            with library_errors(NO_IDS):
                return self._words(texts)
        except Refusal:
            self.plainly(texts)  # names the text
            raise

    def plainly(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text by the library alone; those of `encode` are the same."""
        try:
            return self._encoded(texts)
        except Refusal:
            for place, text in enumerate(texts):
                self._check(text, place)
            raise

    def _check(self, text: str, place: int) -> None:
        """Raise BadText if the library fails on this text."""
        try:
            self._encoded([text])
        except Refusal as error:
            raise BadText(str(error), place) from error

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        with library_errors(NO_IDS):
            found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD. Raises Refusal."""
        with library_errors("no text for ids"):
            text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
            return text

    @cached_property
    def bytes_per_id(self) -> IdBytes:
        """By id, the bytes of text that it stands for, (vocabulary,)."""
        return bytes_per_id(self.tokenizer, self.vocabulary)


def load_tokenizer(pinned: Tokenizer, blobs: BlobStore) -> TextEncoder:
    """Return the tokenizer that a manifest pins: the embedded one, or a blob of the store.

    Raises Unavailable if the file is not here or its golden text fails, Refusal if the file
    contradicts the manifest.
    """
    return checked_tokenizer(tokenizer_file(pinned, blobs), pinned)


def tokenizer_file(pinned: Tokenizer, blobs: BlobStore) -> bytes:
    """Return the file that a manifest pins, its digest checked; raises Unavailable."""
    path = embedded_tokenizer_path(pinned.sha256)
    try:
        data = (
            read_file(path, limit=pinned.size) if path else blobs.read(pinned.sha256, pinned.size)
        )
    except BlobMissing:
        raise Unavailable(
            f"tokenizer: the file of SHA-256 {short(pinned.sha256)}... is not here"
        ) from None
    if len(data) != pinned.size or sha256(data) != pinned.sha256:
        raise Unavailable(f"tokenizer: the file is not the pinned {short(pinned.sha256)}...")
    return data


def pin_tokenizer(
    path: Path, *, end_of_text: str | int = "<|endoftext|>"
) -> tuple[Tokenizer, bytes]:
    """Return a tokenizer file as a manifest states it, and its bytes for the blob store.

    end_of_text   a token, or its id.
    Raises ConfigError for a file that no run can use.
    """
    data = read_file(path, limit=MAX_FILE_BYTES)
    try:
        parsed = parse_tokenizer(data)
        end = parsed.token_to_id(end_of_text) if isinstance(end_of_text, str) else end_of_text
        if end is None:
            raise Refusal(f"tokenizer: no token {end_of_text!r}")
        size = 1 + _largest_id(parsed)
        if not 0 <= end < size:
            raise Refusal(f"tokenizer: no token of id {end}")
        pinned = _stated(data, size, end)
        checked_tokenizer(data, pinned)
    except (Refusal, Unavailable) as error:
        raise ConfigError(f"{path}: {error}") from error
    return pinned, data


def _stated(data: bytes, vocabulary: int, end: int) -> Tokenizer:
    try:
        return Tokenizer(
            sha256=sha256(data), size=len(data), vocabulary=vocabulary, end_of_text=end
        )
    except ValueError as error:
        raise Refusal(f"tokenizer.{error}") from error


def checked_tokenizer(data: bytes, pinned: Tokenizer) -> TextEncoder:
    """Return the tokenizer in `data`, whose digest was checked; raises Refusal, Unavailable."""
    parsed = parse_tokenizer(data)
    largest = _largest_id(parsed)
    if largest >= pinned.vocabulary:
        raise Refusal(
            f"tokenizer.vocabulary: the file has ids up to {largest}, "
            f"the manifest allows {pinned.vocabulary - 1}"
        )
    if getattr(parsed.model, "dropout", None):
        raise Refusal("tokenizer: its model has a dropout, so the ids of a text are random")
    if parsed.id_to_token(pinned.end_of_text) is None:
        raise Refusal(f"tokenizer.end_of_text: the file has no token {pinned.end_of_text}")
    spell_out(parsed, pinned.end_of_text)
    encoder = TextEncoder(parsed, pinned)
    ids = _check_encoding(encoder, parsed)
    known = GOLDEN_IDS.get(pinned.sha256)
    if known is not None and golden_digest(ids) != known:
        raise Unavailable(
            "tokenizer: the golden text has other ids here: install another version of the "
            "`tokenizers` library (constraints.txt names one)"
        )
    return encoder


def _largest_id(parsed: "tokenizers.Tokenizer") -> int:
    return max(parsed.get_vocab(with_added_tokens=True).values(), default=-1)


def _spellings(token: str) -> tuple[str, ...]:
    return token, f"a {token} b", f"a{token}b"


def spell_out(parsed: "tokenizers.Tokenizer", end_of_text: int) -> bool:
    """Make a text that spells the end of text ordinary text to the model too.

    A model finds the token where its vocabulary has it as a word or a piece. So the last part of
    the pre-tokenizer then cuts the spelling behind its first character. Returns whether it was
    needed; raises Refusal.
    """
    from tokenizers import Regex, pre_tokenizers

    token = parsed.id_to_token(end_of_text) or ""
    with library_errors(NO_IDS):
        found = [parsed.encode(t, add_special_tokens=False).ids for t in _spellings(token)]
    if len(token) < 2 or not any(end_of_text in ids for ids in found):
        return False
    first, *rest = (f"\\x{{{ord(character):x}}}" for character in token)
    cut = pre_tokenizers.Split(Regex(f"(?<={first})(?={''.join(rest)})"), "isolated")
    before = parsed.pre_tokenizer
    parsed.pre_tokenizer = cut if before is None else pre_tokenizers.Sequence([before, cut])
    return True


def _check_encoding(encoder: TextEncoder, parsed: "tokenizers.Tokenizer") -> list[int]:
    """Return the ids of the golden text; raises Refusal for a tokenizer that no text is safe with.

    That is one that fails on a text or a character, and one that gives a text the end of text.
    """
    end = encoder.end_of_text
    spelled = parsed.id_to_token(end) or ""
    golden, *others = encoder.plainly([GOLDEN_TEXT, RARE_TEXT, *_spellings(spelled)])
    if any(end in ids for ids in (golden, *others)):
        raise Refusal(
            f"tokenizer.end_of_text: a text gets the id {end} of {spelled!r}, so a document could "
            "end another: take another token, which no character and no unknown word gets"
        )
    return golden


def golden_digest(ids: Sequence[int]) -> str:
    """Return the SHA-256 of ids as u32 little-endian, in hex."""
    return hashlib.sha256(b"".join(u32(each) for each in ids)).hexdigest()


def parse_tokenizer(data: bytes) -> "tokenizers.Tokenizer":
    """Return the library's tokenizer, to which every text is ordinary text; raises Refusal."""
    # One thread by default, to leave a volunteer's cores free. The ids are the same.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    with library_errors("not a file of the `tokenizers` library"):
        parsed = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    parsed.no_truncation()
    parsed.no_padding()
    others = [t for t in parsed.get_added_tokens_decoder().values() if not t.special]
    for token in others:  # the next setting spares special tokens alone
        token.special = True
    parsed.add_special_tokens(others)
    parsed.encode_special_tokens = True
    return parsed
