"""The check of a lease against manifest, specs and ledger, before any work is done for it."""

from collections.abc import Sequence

from dipaco.node.kinds.table import kind_of, work_of
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.work.kinds import Lease


def spec_for(lease: Lease, record: RunRecord, verified: Sequence[RouterSpec]) -> RouterSpec:
    """Return the spec that routes a lease's documents.

    verified   the specs that this node verified, by epoch.
    Raises RemoteProtocolError for an epoch whose spec was not verified.
    """
    epoch = record.manifest.epoch_of(work_of(lease).round)
    if epoch >= len(verified):
        raise RemoteProtocolError("the lease is of an epoch whose router was not verified")
    return verified[epoch]


def check_lease(lease: Lease, record: RunRecord, verified: Sequence[RouterSpec]) -> None:
    """Raise RemoteProtocolError for a lease that the run's ledger does not imply."""
    spec = spec_for(lease, record, verified)
    if (lease.run, lease.spec) != (record.run, spec_digest(spec)):
        raise RemoteProtocolError("the lease is for another run or another spec")
    if lease.window >= record.manifest.source.windows:
        raise RemoteProtocolError("the lease is for a window that does not exist")
    kind_of(lease).check(record.state, lease)
