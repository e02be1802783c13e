"""The interface of a kind of source: the values to pin, read and examine one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic, TypedDict, TypeVar

import msgspec

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.retry import RetryPolicy
from dipaco.node.jobs.meter import OnProgress
from dipaco.protocol.run.source import Source


class SourceRow(TypedDict):
    """One row of a source."""

    index: int
    """The row's number, from 0, over all rows of the source."""
    text: str


@dataclass(frozen=True)
class Access:
    """The permissions of a run's source on this node, and the folder of its downloads."""

    local_sources: bool = False
    """Whether a run may name files and addresses of this machine and its network."""
    downloads: Downloads | None = None
    """The folder of files that are fetched whole; without it none can be fetched."""
    whole_files: bool = False
    """Whether files of the hub are fetched whole and hashed before use, not streamed."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """The retries of streamed reads."""


FileName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=512,
        pattern=r"^[^\x00]+\Z",
        description="the name of a file: a text in quotes, of 1 to 512 characters",
    ),
]
"""The name of a file in a TOML file."""


class SourceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of the table `source` in the TOML file of a run, without its `kind`."""


@dataclass(frozen=True)
class Pinning:
    """The folders and the progress report for pinning the source of a new run."""

    folder: Path
    """The base of relative names: the folder of the TOML file."""
    cache: Path | None
    """The folder of fetched files; without it they are deleted again."""
    on_progress: OnProgress
    """Gets the progress of fetching files and counting rows."""


@dataclass(frozen=True)
class Reach:
    """Whether this node can read a source, as far as that is known without the network."""

    words: str
    """The finding, for people."""
    cure: str = ""
    """The advice to the operator; empty if the source can be read."""


RowRange = Callable[[int, int], Iterator[SourceRow]]
"""Yields the rows from the first index to before the second."""

T = TypeVar("T", bound=SourceTable)


@dataclass(frozen=True)
class SourceKind(Generic[T]):
    """The functions and properties of one kind of source."""

    table: type[T]
    """The table `source` of the TOML file of a run."""
    pin: Callable[[T, Pinning], Source]
    """Returns the source as a manifest states it. Raises ConfigError, or ValueError that begins
    with the field, for a source that no run can have; Unavailable if it cannot be reached."""
    open: Callable[[Source, Access, OnProgress], RowRange]
    """Returns a function that reads rows. Both raise ConfigError for a source that the operator
    does not allow, Refusal for one that no run can name, Unavailable for one that is away."""
    reachable: Callable[[Source, Access], Reach]
    """Returns whether this node can read the source, without using the network."""
    is_authenticated: Callable[[Access], bool] = lambda access: True
    """Returns whether every row comes from bytes of the manifest's SHA-256."""
