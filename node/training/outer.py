"""The outer step as work on the blob store, and the check of what goes into it. NumPy alone."""

import numpy as np

from dipaco.node.storage.blobs import BlobStore
from dipaco.node.training.jobs import Inspect, Inspected, OuterStep, Stepped
from dipaco.protocol.delta import Float32, check_bound, decode_delta, encoded_bytes
from dipaco.protocol.digest import Digest
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.lease import digest_of
from dipaco.protocol.manifest import Manifest
from dipaco.protocol.moments import Moments, check_moments, decode_moments, moments_bytes
from dipaco.protocol.outer_step import outer_step
from dipaco.protocol.topology import ModuleId, topology

MAX_WRONG = 512  # characters of an `Inspected`


def take_outer_step(blobs: BlobStore, job: OuterStep) -> Stepped:
    """Take the outer step of one module and leave the new state and momentum in `blobs`.

    One delta is in memory at a time. Raises RemoteProtocolError if a contribution is not what an
    honest path sends (deltas are checked before they are accepted, so that is not expected), and
    Unavailable if a blob is missing.
    """
    module = ModuleId(job.module)
    elements = topology(job.manifest).elements(module)
    momentum = None if job.momentum is None else blobs.read_array(job.momentum, elements)
    state, momentum = outer_step(
        blobs.read_array(job.state, elements),
        momentum,
        [each.weight for each in job.contributions],
        (read_delta(blobs, job.manifest, module, each.delta) for each in job.contributions),
        job.manifest.training.outer,
    )
    return Stepped(state=blobs.write_array(state), momentum=blobs.write_array(momentum))


def read_delta(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> Float32:
    """Return a pseudo-gradient from the store, flat; raises RemoteProtocolError, Unavailable."""
    encoding, elements = manifest.training.deltas, topology(manifest).elements(module)
    data = blobs.read(digest, encoded_bytes(encoding, elements))
    return decode_delta(data, encoding, elements)


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
    delta = read_delta(blobs, job.manifest, module, digest)
    state = blobs.read_array(digest_of(module, job.lease.modules), delta.size)
    check_bound(delta, state, job.manifest.training, job.lease.round)


def _check_moments(blobs: BlobStore, job: Inspect, module: ModuleId, digest: Digest) -> None:
    moments = read_moments(blobs, job.manifest, module, digest)
    check_moments(moments, job.manifest.training, job.lease.round)


def _check_state(blobs: BlobStore, manifest: Manifest, module: ModuleId, digest: Digest) -> None:
    state = blobs.read_array(digest, topology(manifest).elements(module))
    if not np.isfinite(state).all():
        raise RemoteProtocolError("the state holds NaN or infinity")
