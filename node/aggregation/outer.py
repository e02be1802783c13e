"""The outer step, on blobs of the store. NumPy alone."""

import numpy as np

from dipaco.node.jobs.values import Advance, Advanced, OuterStep, Stepped
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.delta import BITS, Float32, decode_delta, encoded_bytes
from dipaco.protocol.tensors.feedback import carried_bytes
from dipaco.protocol.tensors.moments import Moments, decode_moments, moments_bytes
from dipaco.protocol.tensors.outer_step import advance, outer_update, quantise
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.ledger import Quantised


def take_outer_step(blobs: BlobStore, job: OuterStep) -> Stepped:
    """Take the outer step of one module and write its outputs to `blobs`.

    One delta is in memory at a time. Raises Unavailable if a blob is missing, and
    RemoteProtocolError for a malformed contribution (not expected: deltas are checked before they
    are accepted).
    """
    module = ModuleId(job.module)
    elements = job.manifest.topology.elements(module)
    update, momentum = outer_update(
        _array_or_zeros(blobs, job.momentum, elements),
        [each.weight for each in job.contributions],
        (read_delta(blobs, job.manifest, module, each.delta) for each in job.contributions),
        job.manifest.training.outer,
    )
    after = blobs.write_array(momentum)
    state = blobs.read_array(job.state, elements)
    if job.manifest.training.updates == "f32":
        return Stepped(state=blobs.write_array(state - update), momentum=after)
    bits = BITS[job.manifest.training.updates]
    data, residual = quantise(update, _array_or_zeros(blobs, job.residual, elements), bits)
    return Stepped(
        state=blobs.write_array(advance(state, data, bits)),
        momentum=after,
        quantised=Quantised(update=blobs.write(data), residual=blobs.write_array(residual)),
    )


def advance_state(blobs: BlobStore, job: Advance) -> Advanced:
    """Compute a later version of a state; raises RemoteProtocolError, Unavailable."""
    elements = job.manifest.topology.elements(ModuleId(job.module))
    encoding = job.manifest.training.updates
    state = blobs.read_array(job.state, elements)
    for update in job.updates:
        data = blobs.read(update, encoded_bytes(encoding, elements))
        state = advance(state, data, BITS[encoding])
    return Advanced(state=blobs.write_array(state))


def _array_or_zeros(blobs: BlobStore, digest: Digest | None, elements: int) -> Float32:
    if digest is None:
        return np.zeros(elements, dtype=np.float32)
    return blobs.read_array(digest, elements)


def read_delta(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> Float32:
    """Return a pseudo-gradient from the store, flat; raises RemoteProtocolError, Unavailable."""
    data = encoded_delta(blobs, manifest, module, digest)
    return decode_delta(data, manifest.training.deltas, manifest.topology.elements(module))


def encoded_delta(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> bytes:
    """Return a pseudo-gradient from the store as it was sent; raises Unavailable."""
    elements = manifest.topology.elements(module)
    return blobs.read(digest, encoded_bytes(manifest.training.deltas, elements))


def read_moments(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> Moments:
    """Return a module's moments from the store; raises RemoteProtocolError, Unavailable."""
    sizes = manifest.topology.elements(module), manifest.by_muon(module)
    data = _carried(blobs, manifest, module, digest)
    return decode_moments(data[: moments_bytes(*sizes)], *sizes)


def encoded_feedback(
    blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest
) -> bytes:
    """Return the bytes of what top-k left out, of the blob of moments; raises Unavailable."""
    data = _carried(blobs, manifest, module, digest)
    return data[moments_bytes(manifest.topology.elements(module), manifest.by_muon(module)) :]


def _carried(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> bytes:
    sizes = manifest.topology.elements(module), manifest.by_muon(module)
    return blobs.read(digest, carried_bytes(manifest.training.deltas, *sizes))
