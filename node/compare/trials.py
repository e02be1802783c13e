"""A trial of a comparison: one method at one inner and outer rate, one seed, one order of batches.

Methods of one seed and repeat train on the same batches wherever their shards are the same, so the
difference between two of them is not that of two orders (which alone was measured to give 2 %).
"""

from dataclasses import dataclass

import msgspec

from dipaco.node.compare.variants import method_named
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.training import Adam, Muon
from dipaco.protocol.wire.digest import Digest, tagged, u32


@dataclass(frozen=True)
class Trial:
    """What is trained from a seed's start."""

    method: str
    """The name of a method, with its ablations."""
    lr: float
    """The largest rate of the inner optimizer."""
    outer_lr: float | None
    """The rate of the outer optimizer; None for a method that has none to choose."""
    repeat: int = 0
    """The number of the order of batches; orders of one number are the same for all methods."""

    @property
    def key(self) -> str:
        """The name of its files."""
        outer = "" if self.outer_lr is None else f",outer={self.outer_lr:g}"
        repeat = f",repeat={self.repeat}" if self.repeat else ""
        return f"{self.method},lr={self.lr:g}{outer}{repeat}"

    def manifest(self, run: Manifest) -> Manifest:
        """Return the manifest of the trial. run: of its seed."""
        manifest = method_named(self.method).manifest(run)
        training = manifest.training
        outer = training.outer
        if self.outer_lr is not None:
            outer = msgspec.structs.replace(outer, lr=self.outer_lr)
        training = msgspec.structs.replace(
            training,
            inner=_at_rate(training.inner, self.lr),
            outer=outer,
            batch_order=batch_order(run, self.repeat),
        )
        return msgspec.structs.replace(manifest, training=training)


def _at_rate(inner: Adam | Muon, lr: float) -> Adam | Muon:
    """Return the inner optimizer at a rate; Muon's updates have AdamW's size, so both have one."""
    if isinstance(inner, Muon):
        return msgspec.structs.replace(inner, lr=lr, adamw_lr=lr)
    return msgspec.structs.replace(inner, lr=lr)


def own_trial(method: str, run: Manifest, repeat: int = 0) -> Trial:
    """Return the trial of a method at the rates of the run itself."""
    found = method_named(method)
    training = found.manifest(run).training
    return Trial(
        method, training.inner.lr, training.outer.lr if found.has_outer_rate else None, repeat
    )


def batch_order(run: Manifest, repeat: int) -> Digest:
    """Return the run id that an order of batches follows from: the seed's run's, or a derived one.

    So the run itself, as a method of its own comparison, is the run that a swarm trains.
    """
    own = run_id(run)
    return tagged("dipaco/1/compare-order", own, u32(repeat)) if repeat else own
