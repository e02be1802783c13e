"""The blobs that a home keeps for its person, whatever the work needs: pure but for the listing.

The tokenizer and the first states of every run that the home knows, which nobody may be able to
hand over again, and the states of its local results.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from dipaco.node.runs.files import SUFFIX, read_run
from dipaco.node.runs.local_result import blobs_of_results
from dipaco.node.storage.files import stamped, translated
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest


def pinned_blobs(home: Path, manifests: Iterable[Manifest]) -> set[Digest]:
    """Return them all; `manifests` are those that the node of `home` knows.

    Raises ConfigError, or Unavailable if too many files are open: then nothing may be removed.
    """
    with translated(home, "list"):
        return _named(home, manifests)


def _named(home: Path, manifests: Iterable[Manifest]) -> set[Digest]:
    named = blobs_of_results(home)
    for manifest in manifests:
        named |= blobs_of_manifest(manifest)
    for path, changed, size in stamped(home / "runs", f"*{SUFFIX}"):
        named |= _blobs_in(path, changed, size)
    return named


def blobs_of_manifest(manifest: Manifest) -> set[Digest]:
    """Return the tokenizer's file and the states of a warm start."""
    return {manifest.tokenizer.sha256, *(state.digest for state in manifest.start)}


@lru_cache(maxsize=256)
def _blobs_in(path: Path, _time: int, _size: int) -> frozenset[Digest]:
    """Read a run file once, and again when its time or size changes."""
    try:
        return frozenset(blobs_of_manifest(read_run(path).manifest))
    except (ConfigError, Refusal):
        return frozenset()
