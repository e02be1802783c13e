"""The admission of a signed value: what it must be, and how the record of its run takes it in.

Manifests, specs, the owner's grants and receipts; ledgers and proofs have rules of their own
(`chain.py`, `proofs.py`).
"""

from collections.abc import Callable, Collection
from functools import partial

from dipaco.node.runs.grants import check_grant
from dipaco.node.runs.record import MAX_SPECS, HeldSpec, RunRecord
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Receipt
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import PeerId, short_peer
from dipaco.protocol.wire.signed import decode_signed
from dipaco.protocol.work.terms import OwnersGrant

MAX_RECEIPTS = 4096  # of one run: four per path of the largest grid

Keep = Callable[[], None]
"""Takes an admitted value into memory, once it is saved."""


class Admission:
    """Checks the values that a node is offered."""

    def __init__(
        self,
        runs: dict[Digest, RunRecord],
        buried: Collection[Digest],
        me: PeerId | None,
        give_up: Callable[[RunRecord], None],
    ) -> None:
        """
        runs      all that are known; an admitted manifest adds one.
        buried    the runs that are not taken in again.
        me        this node; None: nobody.
        give_up   drops the records that a run's owner has given up.
        """
        self._runs, self._buried, self._me, self._give_up = runs, buried, me, give_up

    def known(self, run: Digest) -> RunRecord:
        """Return a run; raises Unavailable if it is not known."""
        record = self._runs.get(run)
        if record is None:
            raise Unavailable(f"run {short(run)} is not known yet")
        return record

    def admit(self, kind: str, data: bytes, *, ours: bool) -> tuple[Digest, Keep]:
        """Check a value; returns its run, and what takes it in.

        ours   it is this node's own, or was admitted before.

        Raises RemoteProtocolError for an invalid one, Refusal for one that is not wanted,
        Unavailable where its run is not known yet.
        """
        admissions: dict[str, Callable[[bytes], tuple[Digest, Keep]]] = {
            "manifest": partial(self._manifest, ours=ours),
            "spec": self._spec,
            "grant": self._grant,
            "receipt": partial(self._receipt, ours=ours),
        }
        admit = admissions.get(kind)
        if admit is None:
            raise RemoteProtocolError(f"no value is of kind {kind!r}")
        return admit(data)

    def _manifest(self, data: bytes, *, ours: bool) -> tuple[Digest, Keep]:
        signed, manifest = decode_signed(data, Manifest)
        if signed.signer != manifest.owner:
            raise RemoteProtocolError(
                f"manifest {manifest.name} is signed by {short_peer(signed.signer)}, "
                f"its owner is {short_peer(manifest.owner)}"
            )
        run = run_id(manifest)
        if run in self._buried and not ours:
            raise Refusal(f"the scheduler of run {short(run)} signed two ledgers")
        if run in self._runs:
            raise Refusal(f"run {short(run)} is known already")
        if manifest.schedule.schedulers[0] == self._me and not ours:
            # Handed on, it would look to newcomers like a run that this node schedules.
            raise Refusal(
                f"run {short(run)} names this node as its scheduler, which has no such run"
            )
        return run, lambda: self._runs.update({run: RunRecord(run, manifest, size=len(data))})

    def _spec(self, data: bytes) -> tuple[Digest, Keep]:
        signed, spec = decode_signed(data, RouterSpec)
        record = self.known(spec.manifest)
        if signed.signer not in record.manifest.schedule.schedulers:
            raise RemoteProtocolError(
                f"the spec of run {short(spec.manifest)} is signed by "
                f"{short_peer(signed.signer)}, who does not schedule it"
            )
        digest = spec_digest(spec)
        if digest in record.specs or len(record.specs) >= MAX_SPECS:
            raise Refusal(f"spec {short(digest)} is known already, or one too many")
        held = HeldSpec(spec, signed.signer)
        return record.run, lambda: record.specs.update({digest: held})

    def _grant(self, data: bytes) -> tuple[Digest, Keep]:
        signed, grant = decode_signed(data, OwnersGrant)
        record = self.known(grant.run)
        check_grant(record, signed, grant)

        def heed() -> None:
            record.granted = grant
            self._give_up(record)

        return record.run, heed

    def _receipt(self, data: bytes, *, ours: bool) -> tuple[Digest, Keep]:
        signed, receipt = decode_signed(data, Receipt)
        record = self.known(receipt.manifest)
        if not ours and not record.is_news(signed.signer, receipt):
            raise Refusal(f"{short_peer(signed.signer)} gave a receipt before")
        # Strangers can make as many receipts as they like; none of them may silence this node, or
        # the peers that the run knows.
        full = len(record.receipts) >= MAX_RECEIPTS
        if full and not ours and not record.knows(signed.signer):
            raise Refusal(f"run {short(record.run)} has {MAX_RECEIPTS} receipts already")
        return record.run, partial(record.hear, sha256(data), signed.signer, receipt)


def least_receipt(record: RunRecord) -> Digest | None:
    """Return the receipt that makes room for one more of a run; None where there is room."""
    if len(record.receipts) < MAX_RECEIPTS:
        return None
    return record.least_receipt()
