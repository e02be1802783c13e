"""The public source of a run as a stream of numbered rows, alike for every kind of source.

Only the table `KINDS` maps the name of a kind to its code. Only the kind `hub` imports `datasets`,
which takes more than a second of processor time and 100 MB.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from dipaco.node.data.sources import embedded, files, hub, synthetic
from dipaco.node.data.sources.interface import Access, Reach, SourceKind, SourceRow
from dipaco.node.jobs.meter import OnProgress, silent
from dipaco.protocol.run.source import Source

KINDS: Mapping[str, SourceKind[Any]] = MappingProxyType(
    {
        "embedded": embedded.KIND,
        "files": files.KIND,
        "hub": hub.KIND,
        "synthetic": synthetic.KIND,
    }
)
"""Every kind that a manifest may state."""


def kind_named(name: object) -> SourceKind[Any] | None:
    """Return the kind that a TOML file names, None if there is none."""
    return KINDS.get(name) if isinstance(name, str) else None


def is_authenticated(source: Source, access: Access) -> bool:
    """Return whether every row of `rows` comes from bytes of the manifest's SHA-256."""
    return KINDS[source.kind].is_authenticated(access)


def reachable(source: Source, access: Access) -> Reach:
    """Return whether this node can read `source`, without using the network."""
    return KINDS[source.kind].reachable(source, access)


def rows(
    source: Source,
    *,
    start: int,
    stop: int,
    access: Access,
    on_progress: OnProgress = silent,
) -> Iterable[SourceRow]:
    """Return the rows `start` to `stop` - 1 of a source, or up to its end.

    on_progress   gets the progress of files that are fetched whole; the reader counts rows itself.

    Raises ConfigError for a source that the operator does not allow, and Refusal for a file that no
    run can name. Reading raises Unavailable if the source is away or a file is not the pinned one,
    and Refusal for content that contradicts the manifest.
    """
    kind = KINDS[source.kind]
    read = kind.open(source, access, on_progress)
    return _Rows(partial(read, max(0, start), min(stop, source.documents)))


@dataclass(frozen=True)
class _Rows:
    """Reads the rows again each time that they are iterated over."""

    read: Callable[[], Iterator[SourceRow]]

    def __iter__(self) -> Iterator[SourceRow]:
        return self.read()
