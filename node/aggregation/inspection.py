"""The checks of a volunteer's result before it is accepted. NumPy alone, no torch.

Each returns the fault in words, or an empty string. A missing blob raises Unavailable, since it is
not the volunteer's fault.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dipaco.node.aggregation.outer import encoded_delta, encoded_feedback, read_moments
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.batches import first_step
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest, ModuleId, digest_of
from dipaco.protocol.run.training import Muon, Training
from dipaco.protocol.tensors.delta import Float32, check_bound, decode_delta, rounding
from dipaco.protocol.tensors.feedback import decode_feedback
from dipaco.protocol.tensors.moments import check_moments
from dipaco.protocol.tensors.muon_bound import check_muon_bound
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import SeedLease, TrainLease


def wrong_states(
    blobs: BlobStore, manifest: Manifest, lease: SeedLease, states: Sequence[ModuleDigest]
) -> str:
    """Check that the dense steps can lead to these states (docs/method.md 6(e)).

    They are judged by their distance from the states that the lease starts from. Without a step
    they are those states.
    """
    steps = range(manifest.training.seed_steps)

    def check(module: ModuleId, digest: Digest) -> None:
        elements = manifest.topology.elements(module)
        state = blobs.read_array(digest, elements)
        if not np.isfinite(state).all():
            raise RemoteProtocolError("the state holds NaN or infinity")
        if lease.modules:
            start = blobs.read_array(digest_of(module, lease.modules), elements)
        else:
            start = initial_module(manifest, module)
        _check_bound(manifest, module, state - start, start, steps)

    return _first_fault("module", states, check)


def wrong_deltas(
    blobs: BlobStore,
    manifest: Manifest,
    lease: TrainLease,
    deltas: Sequence[ModuleDigest],
    *,
    steps: int,
) -> str:
    """Check that honest training can give these pseudo-gradients (docs/method.md 6(e)).

    steps   that were taken: none where the window has no document for the path.
    """
    training = manifest.training
    taken = _counted(training, lease.round, steps)

    def check(module: ModuleId, digest: Digest) -> None:
        elements = manifest.topology.elements(module)
        data = encoded_delta(blobs, manifest, module, digest)
        _check_bound(
            manifest,
            module,
            decode_delta(data, training.deltas, elements),
            blobs.read_array(digest_of(module, lease.modules), elements),
            taken,
            rounded=rounding(data, training.deltas, elements),
        )

    return _first_fault("module", deltas, check)


def wrong_moments(
    blobs: BlobStore, manifest: Manifest, lease: TrainLease, moments: Sequence[ModuleDigest]
) -> str:
    """Check that honest training can give these moments, and the feedback that follows them."""
    rounds = lease.steps // manifest.training.inner_steps + 1  # in which they saw steps, at most

    def check(module: ModuleId, digest: Digest) -> None:
        found = read_moments(blobs, manifest, module, digest)
        check_moments(found, manifest.training, rounds)
        if manifest.training.deltas == "topk":
            check_feedback(module, digest)

    def check_feedback(module: ModuleId, digest: Digest) -> None:
        elements = manifest.topology.elements(module)
        data = encoded_feedback(blobs, manifest, module, digest)
        _check_bound(
            manifest,
            module,
            decode_feedback(data, elements),
            blobs.read_array(digest_of(module, lease.modules), elements),
            _counted(manifest.training, lease.round, manifest.training.inner_steps),
        )

    return _first_fault("moments of module", moments, check)


def _check_bound(
    manifest: Manifest,
    module: ModuleId,
    delta: Float32,
    state: Float32,
    steps: range,
    *,
    rounded: Float32 | None = None,
) -> None:
    """Hold a delta against the bound of the run's inner optimizer."""
    training = manifest.training
    if isinstance(training.inner, Muon):
        layout = manifest.topology.layouts[module]
        check_muon_bound(delta, state, training, layout, steps, rounded=rounded)
    else:
        check_bound(delta, state, training, steps, rounded=rounded)


def _counted(training: Training, round_: int, steps: int) -> range:
    """Return the steps whose moves a pseudo-gradient of a round can hold: with top-k of all rounds.

    steps   that were taken in this round.
    """
    first = training.seed_steps + first_step(training, round_)
    begins = training.seed_steps if training.deltas == "topk" and steps else first
    return range(begins, first + steps)


def _first_fault(
    what: str, named: Sequence[ModuleDigest], check: Callable[[ModuleId, Digest], None]
) -> str:
    for each in named:
        try:
            check(ModuleId(each.module), each.digest)
        except RemoteProtocolError as error:
            return f"{what} {each.module}: {error}"
    return ""
