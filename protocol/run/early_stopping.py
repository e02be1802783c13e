"""Which version of its modules a path is used with (docs/method.md 2, line 18).

A choice among versions that exist; training goes on from the newest whatever is chosen here, since
a path shares its modules with others.
"""

from collections.abc import Mapping

from dipaco.protocol.run.manifest import Manifest


def kept_version(manifest: Manifest, newest: int, losses: Mapping[int, float]) -> int:
    """Return `newest`, or under early stopping the version of the lowest loss, of equals the first.

    newest   the version at which all of the path's modules stand.
    losses   of the path on its held-out documents, by version; those not evaluated are missing.

    Where the run re-shards, versions of the first router were evaluated on other documents: only
    those of the newest's router are compared.
    """
    if not manifest.training.early_stopping:
        return newest
    epoch = manifest.epoch_of(newest)
    found = [v for v in losses if v <= newest and manifest.epoch_of(v) == epoch]
    return min(found, key=lambda version: (losses[version], version), default=newest)
