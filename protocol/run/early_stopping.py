"""The version of its modules that a path is used with (docs/method.md 2, line 18).

This chooses among versions that exist. Training goes on from the newest version in any case, since
a path shares its modules with others.
"""

from collections.abc import Mapping

from dipaco.protocol.run.manifest import Manifest


def kept_version(manifest: Manifest, newest: int, losses: Mapping[int, float]) -> int:
    """Return `newest`, or under early stopping the first version of the lowest loss.

    newest   the version at which all of the path's modules stand.
    losses   the path's held-out loss by version; versions that are not evaluated are missing.

    Where the run re-shards, versions of the first router were evaluated on other documents. So
    only versions of the same router as `newest` are compared.
    """
    if not manifest.training.early_stopping:
        return newest
    epoch = manifest.epoch_of(newest)
    found = [v for v in losses if v <= newest and manifest.epoch_of(v) == epoch]
    return min(found, key=lambda version: (losses[version], version), default=newest)
