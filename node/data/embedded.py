"""The corpus and the tokenizer that are shipped inside the package, pinned to the byte.

1,810 documents of public-domain text in eight domains (demo/NOTICE.md says where each is stated)
and the byte-level BPE tokenizer that was trained on them. The tests hold these constants against
the files.
"""

from pathlib import Path

from dipaco.protocol.digest import Digest
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.source import Source, SourceFile, Tokenizer

REVISION = "demo-1"
DOCUMENTS = 1810

_FOLDER = Path(__file__).parent / "demo"
_CORPUS = SourceFile(
    name="demo-00000-of-00001.parquet",
    size=1_707_281,
    sha256=Digest(
        bytes.fromhex("0370c86c21a1a151a9ad8f717be2c728b5a3bc59936babb1891216e3de7b625e")
    ),
    rows=DOCUMENTS,
)
_TOKENIZER_FILE = "demo-bpe-4096.json"
_TOKENIZER = Tokenizer(
    sha256=Digest(
        bytes.fromhex("dadc17af0f272161928a5a6d3f35c60b2c81fc4d7b12a12b315af38dc4f76ba3")
    ),
    size=259_769,
    vocabulary=4096,
    end_of_text=0,
)


def embedded_source(*, documents: int = DOCUMENTS, window: int | None = None) -> Source:
    """Return the embedded corpus as a manifest states it; `window` defaults to all of it."""
    return Source(
        kind="embedded",
        revision=REVISION,
        files=(_CORPUS,),
        documents=documents,
        window=documents if window is None else window,
    )


def embedded_tokenizer() -> Tokenizer:
    """Return the embedded tokenizer as a manifest states it."""
    return _TOKENIZER


def embedded_tokenizer_path(digest: Digest) -> Path | None:
    """Return where the tokenizer of this digest is, if it is the embedded one."""
    return _FOLDER / _TOKENIZER_FILE if digest == _TOKENIZER.sha256 else None


def embedded_paths(source: Source) -> tuple[Path, ...]:
    """Return where the files of an embedded source are.

    Raises Unavailable if this version embeds another corpus.
    """
    if source.revision != REVISION or source.files != (_CORPUS,):
        raise Unavailable(
            f"source.revision: this version embeds the corpus {REVISION}, "
            f"not {source.revision} as the run has it"
        )
    return (_FOLDER / _CORPUS.name,)
