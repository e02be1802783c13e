"""The embedded tokenizer: a part of the package, pinned by its SHA-256.

It is a byte-level BPE, trained on the embedded corpus. The tests compare the constants with the
file.
"""

from pathlib import Path

from dipaco.protocol.run.source import Tokenizer
from dipaco.protocol.wire.digest import Digest

FOLDER = Path(__file__).parent / "demo"
"""The folder of the embedded tokenizer and corpus."""
_TOKENIZER_FILE = "demo-bpe-4096.json"
_TOKENIZER = Tokenizer(
    sha256=Digest(
        bytes.fromhex("dadc17af0f272161928a5a6d3f35c60b2c81fc4d7b12a12b315af38dc4f76ba3")
    ),
    size=259_769,
    vocabulary=4096,
    end_of_text=0,
)


def embedded_tokenizer() -> Tokenizer:
    """Return the embedded tokenizer as a manifest states it."""
    return _TOKENIZER


def embedded_tokenizer_path(digest: Digest) -> Path | None:
    """Return the path of the embedded tokenizer, None if it has another digest."""
    return FOLDER / _TOKENIZER_FILE if digest == _TOKENIZER.sha256 else None
