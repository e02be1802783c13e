"""Sources of kind `embedded`: the corpus inside the package, pinned by its SHA-256.

It has 1,810 documents of public-domain text in eight domains (demo/NOTICE.md lists the licences).
The tests compare the constants with the file.
"""

from functools import partial

from dipaco.node.data.embedded_tokenizer import FOLDER
from dipaco.node.data.sources.interface import (
    Access,
    Pinning,
    Reach,
    RowRange,
    SourceKind,
    SourceTable,
)
from dipaco.node.data.sources.pinned_files import checked, file_rows
from dipaco.node.jobs.meter import OnProgress
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.source import Count, Source, SourceFile
from dipaco.protocol.wire.digest import Digest

REVISION = "demo-1"
DOCUMENTS = 1810

_CORPUS = SourceFile(
    name="demo-00000-of-00001.parquet",
    size=1_707_281,
    sha256=Digest(
        bytes.fromhex("0370c86c21a1a151a9ad8f717be2c728b5a3bc59936babb1891216e3de7b625e")
    ),
    rows=DOCUMENTS,
)
CORPUS_PATH = FOLDER / _CORPUS.name


class EmbeddedTable(SourceTable, frozen=True, kw_only=True):
    """The table `source` of a run's TOML file."""

    documents: Count = DOCUMENTS
    window: Count | None = None


def embedded_source(*, documents: int = DOCUMENTS, window: int | None = None) -> Source:
    """Return the embedded corpus as a manifest states it; `window` defaults to all of it."""
    return Source(
        kind="embedded",
        revision=REVISION,
        files=(_CORPUS,),
        documents=documents,
        window=documents if window is None else window,
    )


def _pin(table: EmbeddedTable, pinning: Pinning) -> Source:
    return embedded_source(documents=table.documents, window=table.window)


def _check(source: Source) -> None:
    """Raise Unavailable if this version embeds another corpus."""
    if source.revision != REVISION or source.files != (_CORPUS,):
        raise Unavailable(
            f"source.revision: the run's corpus {source.revision} is not the one that this version "
            f"embeds ({REVISION})"
        )


def _open(source: Source, access: Access, on_progress: OnProgress) -> RowRange:
    _check(source)
    return file_rows(source, [(_CORPUS, partial(checked, CORPUS_PATH, _CORPUS))])


def _reachable(source: Source, access: Access) -> Reach:
    try:
        _check(source)
    except Unavailable as error:
        return Reach(str(error), cure="install the version of this program that embeds it")
    return Reach("embedded: part of this program")


KIND = SourceKind(table=EmbeddedTable, pin=_pin, open=_open, reachable=_reachable)
