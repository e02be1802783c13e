"""The outer step as work on the blob store, and the check of what goes into it. NumPy alone."""

import numpy as np

from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.jobs import (
    Advance,
    Advanced,
    Inspect,
    Inspected,
    OuterStep,
    Stepped,
)
from dipaco.protocol.delta import (
    BITS,
    Float32,
    check_bound,
    decode_delta,
    encoded_bytes,
    rounding,
)
from dipaco.protocol.digest import Digest
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.lease import digest_of
from dipaco.protocol.ledger import Quantised
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.moments import Moments, check_moments, decode_moments, moments_bytes
from dipaco.protocol.outer_step import advance, outer_update, quantise
from dipaco.protocol.topology import ModuleId, topology

MAX_WRONG = 512  # characters of an `Inspected`


def take_outer_step(blobs: BlobStore, job: OuterStep) -> Stepped:
    """Take the outer step of one module and leave what it makes in `blobs`.

    One delta is in memory at a time. Raises RemoteProtocolError if a contribution is not what an
    honest path sends (deltas are checked before they are accepted, so that is not expected), and
    Unavailable if a blob is missing.
    """
    module = ModuleId(job.module)
    elements = topology(job.manifest).elements(module)
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
    """Make a later version of a state; raises RemoteProtocolError, Unavailable."""
    elements = topology(job.manifest).elements(ModuleId(job.module))
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
    data, elements = _encoded(blobs, manifest, module, digest), topology(manifest).elements(module)
    return decode_delta(data, manifest.training.deltas, elements)


def _encoded(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> bytes:
    elements = topology(manifest).elements(module)
    return blobs.read(digest, encoded_bytes(manifest.training.deltas, elements))


def read_moments(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> Moments:
    """Return AdamW's moments from the store; raises RemoteProtocolError, Unavailable."""
    elements = topology(manifest).elements(module)
    return decode_moments(blobs.read(digest, moments_bytes(elements)), elements)


def inspect(blobs: BlobStore, job: Inspect) -> Inspected:
    """Check that what was submitted is finite and that honest training can have made it.

    Raises Unavailable if a blob is missing: that is not the submitter's fault.
    """
    for what, check, named in (
        ("", _check_blob, job.blobs),
        ("moments of ", _check_moments, job.moments),
    ):
        for blob in named:
            try:
                check(blobs, job, ModuleId(blob.module), blob.digest)
            except RemoteProtocolError as error:
                return Inspected(wrong=f"{what}module {blob.module}: {error}"[:MAX_WRONG])
    return Inspected(wrong="")


def _check_blob(blobs: BlobStore, job: Inspect, module: ModuleId, digest: Digest) -> None:
    if job.lease.kind == "seed":
        _check_state(blobs, job.manifest, module, digest)
        return
    training, elements = job.manifest.training, topology(job.manifest).elements(module)
    data = _encoded(blobs, job.manifest, module, digest)
    check_bound(
        decode_delta(data, training.deltas, elements),
        blobs.read_array(digest_of(module, job.lease.modules), elements),
        training,
        job.lease.round,
        rounded=rounding(data, training.deltas, elements),
    )


def _check_moments(blobs: BlobStore, job: Inspect, module: ModuleId, digest: Digest) -> None:
    moments = read_moments(blobs, job.manifest, module, digest)
    check_moments(moments, job.manifest.training, job.lease.round)


def _check_state(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> None:
    state = blobs.read_array(digest, topology(manifest).elements(module))
    if not np.isfinite(state).all():
        raise RemoteProtocolError("the state holds NaN or infinity")
