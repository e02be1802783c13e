"""Tokenizers: loads a `tokenizers` JSON file by its digest, and checks it before use.

Text becomes ids without special tokens: nothing is added, and text that spells a special token is
ordinary text, so no document can insert an end of text. Only worker processes use this module.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.pretokens import WordEncoder, merges_words
from dipaco.node.storage.blobs import BlobMissing, BlobStore
from dipaco.node.storage.files import read_file
from dipaco.protocol.errors import ConfigError, LocalProtocolError, Refusal, Unavailable
from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.wire.digest import sha256, short, u32

if TYPE_CHECKING:
    import tokenizers

MAX_FILE_BYTES = 64 << 20  # the manifest's own bound

CHECK_EVERY = 16  # batches; in one of them a text is compared with the library's ids
CHECK_CHARACTERS = 4096
CHARACTER_BYTES = 4  # of a UTF-8 character at most; each may be a token

GOLDEN_TEXT = "The naïve café—42 \t\r\n¿Qué? 日本語 😀 <|endoftext|> def f(x): return x**2  \x00'll"
GOLDEN_IDS = {
    # SHA-256 of the ids as u32 little-endian, by digest of the tokenizer file.
    embedded_tokenizer().sha256: "710e927c5e79ebbf6ac61ab51da6e60192a39fbfdd98802900b08a4c40af4dad",
}


class TextEncoder:
    """A tokenizer that passed its checks; `load_tokenizer` returns one."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer", pinned: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = WordEncoder(tokenizer, self.plainly) if merges_words(tokenizer) else None
        self._batches = 0
        self.end_of_text = pinned.end_of_text
        self.vocabulary = pinned.vocabulary

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text.

        Raises LocalProtocolError if the fast encoding and the library's differ on this machine:
        then no result of this process may be used.
        """
        if self._words is None:
            return self.plainly(texts)
        if self._batches % CHECK_EVERY == 0 and texts:
            sample = [texts[0][:CHECK_CHARACTERS]]
            if self._words(sample) != self.plainly(sample):
                raise LocalProtocolError(
                    "tokenizer: word by word its ids differ from the library's: please report it"
                )
        self._batches += 1
        return self._words(texts)

    def plainly(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text by the library alone; those of `encode` are the same."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


class TextDecoder:
    """Decodes ids one at a time, and returns a character when all its bytes are there.

    Bytes that are not UTF-8 become U+FFFD as soon as no further byte can complete a character.
    """

    def __init__(self, encoder: TextEncoder, before: Sequence[int] = ()) -> None:
        """before: the ids before the text, which decide whether it begins with a space."""
        self._decode = encoder.decode
        self._ids = list(before[-CHARACTER_BYTES:])
        self._shown = len(self._ids)

    def step(self, token: int) -> str:
        """Add the next id; return the text that it completes, which may be empty."""
        self._ids.append(token)
        waiting = len(self._ids) - self._shown < CHARACTER_BYTES
        if waiting and self._decode(self._ids).endswith("\ufffd"):
            return ""
        return self.rest()

    def rest(self) -> str:
        """Return the text that was held back, complete or not."""
        known, whole = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        del self._ids[:-CHARACTER_BYTES]
        self._shown = len(self._ids)
        return whole[len(known) :]


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
        parsed = _parse(data)
        end = parsed.token_to_id(end_of_text) if isinstance(end_of_text, str) else end_of_text
        if end is None:
            raise Refusal(f"tokenizer: no token {end_of_text!r}")
        size = 1 + max(parsed.get_vocab(with_added_tokens=True).values())
        if not 0 <= end < size:
            raise Refusal(f"tokenizer: no token of id {end}")
        pinned = Tokenizer(sha256=sha256(data), size=len(data), vocabulary=size, end_of_text=end)
        checked_tokenizer(data, pinned)
    except (Refusal, Unavailable) as error:
        raise ConfigError(f"{path}: {error}") from error
    return pinned, data


def checked_tokenizer(data: bytes, pinned: Tokenizer) -> TextEncoder:
    """Return the tokenizer in `data`, whose digest was checked; raises Refusal, Unavailable."""
    parsed = _parse(data)
    largest = max(parsed.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= pinned.vocabulary:
        raise Refusal(
            f"tokenizer.vocabulary: the file has ids up to {largest}, "
            f"the manifest allows {pinned.vocabulary - 1}"
        )
    if getattr(parsed.model, "dropout", None):
        raise Refusal("tokenizer: its model has a dropout, so the ids of a text are random")
    if parsed.id_to_token(pinned.end_of_text) is None:
        raise Refusal(f"tokenizer.end_of_text: the file has no token {pinned.end_of_text}")
    encoder = TextEncoder(parsed, pinned)
    ids = encoder.plainly([GOLDEN_TEXT])[0]
    known = GOLDEN_IDS.get(pinned.sha256)
    if known is not None and golden_digest(ids) != known:
        raise Unavailable(
            "tokenizer: the golden text has other ids here: install another version of the "
            "`tokenizers` library (constraints.txt names one)"
        )
    return encoder


def golden_digest(ids: Sequence[int]) -> str:
    """Return the SHA-256 of ids as u32 little-endian, in hex."""
    return hashlib.sha256(b"".join(u32(each) for each in ids)).hexdigest()


def _parse(data: bytes) -> "tokenizers.Tokenizer":
    # One thread by default, to leave a volunteer's cores free. The ids are the same.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    try:
        parsed = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises the bare class for a file it cannot read
        raise Refusal(f"tokenizer: not a file of the `tokenizers` library: {error}") from error
    parsed.no_truncation()
    parsed.no_padding()
    parsed.encode_special_tokens = True
    return parsed
