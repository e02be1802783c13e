"""The values between a kind of source and whoever makes, reads or examines one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import msgspec

from dipaco.node.data.downloads import Downloads
from dipaco.node.data.retry import RetryPolicy
from dipaco.node.jobs.meter import OnProgress
from dipaco.protocol.run.source import Source


class SourceRow(TypedDict):
    """One row of a source."""

    index: int
    """Counted from 0 over every row of the source."""
    text: str


@dataclass(frozen=True)
class Access:
    """What this node allows a run's source, and where it keeps what it fetched."""

    local_sources: bool = False
    """Whether a run may name files and addresses of this machine and its network."""
    downloads: Downloads | None = None
    """Where files fetched whole are kept; without it none can be fetched."""
    whole_files: bool = False
    """Whether files of the hub are fetched whole and hashed before use, not streamed."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """With what is streamed."""


class SourceTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of what the TOML file of a run says of its source, beside the kind."""


@dataclass(frozen=True)
class Pinning:
    """What pinning a new run's source may use."""

    folder: Path
    """Where relative names begin: the TOML file's folder."""
    cache: Path | None
    """Where fetched files are kept; without it they are dropped again."""
    on_progress: OnProgress
    """Hears of files that are fetched and of rows that are counted."""


@dataclass(frozen=True)
class Reach:
    """Whether this node can read a source, as far as that is known without a network."""

    words: str
    """What was found."""
    cure: str = ""
    """What the person can do about it; empty if nothing is in the way."""


RowRange = Callable[[int, int], Iterator[SourceRow]]
"""Yields the rows from the first index to before the second."""

T = TypeVar("T", bound=SourceTable)


@dataclass(frozen=True)
class SourceKind(Generic[T]):
    """All that a node knows of one kind of source."""

    table: type[T]
    """What the TOML file of a run says of such a source."""
    pin: Callable[[T, Pinning], Source]
    """Return the source as a manifest states it. Raises ConfigError, and ValueError that begins
    with the field, for what no run can have; Unavailable if it cannot be reached."""
    open: Callable[[Source, Access, OnProgress], RowRange]
    """Return what reads the source. Raises ConfigError for what the operator does not allow,
    Refusal for what no run can name, Unavailable for what is not here; so does reading."""
    reachable: Callable[[Source, Access], Reach]
    """Tell whether this node can read the source; asks no network."""
    is_authenticated: Callable[[Access], bool] = lambda access: True
    """Return whether every row comes from bytes of the manifest's SHA-256."""
    on_hub: bool = False
    """Whether reading it reaches the hub."""
