"""Everything that a node stores under one bound, `storage.cache_max`: blobs, shards, source files.

Blobs that the node's runs need count, but are never removed. What can be made or fetched again
makes room for them, the least recently used first: blobs that nobody claims, then shards, then
source files. A writer of shards or of source files keeps within what the others leave.
"""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.node.storage.files import Home, folder_bytes, remove_path, stamped, translated
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.protocol.errors import ConfigError, Unavailable
from dipaco.protocol.wire.digest import Digest

log = logging.getLogger(__name__)

UNCLAIMED_SECONDS = 3600.0  # since its last use: a command may have fetched or written a blob
SETTLED_SECONDS = 60.0  # the same, when room is short: a blob is claimed soon after it comes


@dataclass(frozen=True)
class Stored:
    """The bytes that a home stores under its bound, by kind."""

    blobs: int
    """Whole blobs."""
    partial: int
    """Blobs that are arriving, and drafts."""
    shards: int
    sources: int
    """Source files that were fetched whole."""
    scratch: int
    """Files of other libraries, of running processes."""

    @property
    def total(self) -> int:
        """All bytes that the bound counts."""
        return self.blobs + self.partial + self.shards + self.sources + self.scratch


def stored_in(home: Home) -> Stored:
    """Measure a home; files that are removed meanwhile do not count."""
    arriving = folder_bytes(home.blobs / "partial")
    return Stored(
        blobs=folder_bytes(home.blobs) - arriving,
        partial=arriving,
        shards=folder_bytes(home.shards),
        sources=folder_bytes(home.sources),
        scratch=folder_bytes(home.scratch),
    )


def nothing() -> int:
    """Return 0: nothing else counts."""
    return 0


def besides(home: Home, folder: Path) -> Callable[[], int]:
    """Return a function that measures what the bound counts apart from `folder`."""

    def measure() -> int:
        return stored_in(home).total - folder_bytes(folder)

    return measure


def tidy(blobs: BlobStore, claims: Claims, cache_max: int, root: Path) -> int:
    """Remove what nobody needs, and then what can be made again until the bound holds.

    root   of the home.

    Returns the bytes that are left: more than `cache_max` only if blobs that are needed, or files
    in use, are more. Call it in a thread.
    """
    home, now = Home(root), time.time()
    try:
        with translated(root, "tidy"):
            blobs.prune(claims.claimed(), 0, used_before=now - UNCLAIMED_SECONDS)
            make_room(home, blobs, claims.claimed(), cache_max, used_before=now - SETTLED_SECONDS)
    except (ConfigError, Unavailable) as error:
        log.warning("the stored files are not tidied: %s", error)
    return stored_in(home).total


def make_room(
    home: Home,
    blobs: BlobStore,
    keep: Collection[Digest],
    most: int,
    *,
    used_before: float,
) -> None:
    """Remove what can be made or fetched again until at most `most` bytes are left, if possible.

    keep         blobs that stay.
    used_before  Unix time, seconds: blobs that were used later stay, too.
    """
    excess = stored_in(home).total - most
    if excess > 0:
        held = blobs.total_bytes()
        excess -= blobs.prune(keep, max(0, held - excess), used_before=used_before)
    if excess > 0:
        shards = ShardCache(home.shards, most)
        excess -= shards.shrink(max(0, shards.total_bytes() - excess))
    if excess > 0:
        _remove_sources(home.sources, excess)


def _remove_sources(folder: Path, excess: int) -> None:
    """Remove source files, those of the longest unused first; an open one stays readable."""
    by_age = sorted(stamped(folder, "*"), key=lambda file: file[1])
    for path, _, size in by_age:
        if excess <= 0:
            return
        if path.name != "lock" and path.suffix != ".part":
            remove_path(path)
            excess -= size
