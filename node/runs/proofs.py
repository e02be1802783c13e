"""Proofs that a scheduler signed two ledgers, as they travel; the manifest alone judges them."""

from dipaco.node.storage.journal import MAX_PROOF, SavedProof
from dipaco.protocol.errors import Refusal
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.ledger import Equivocation, LedgerRecord

PROOF = "proof"
"""The kind of item."""


def two_ledgers(run: Digest) -> str:
    """Say what is proven."""
    return f"the scheduler of run {short(run)} signed two ledgers"


def proof_bytes(saved: SavedProof) -> bytes | None:
    """Return a proof as peers get it; None for a record that is wrong by itself."""
    if not saved.one:
        return None
    one, other = decode(saved.one, Signed), decode(saved.other, Signed)
    return encode(Equivocation(one=one, other=other))


def opened_proof(data: bytes) -> tuple[Equivocation, Digest]:
    """Return a proof and the run that it says it is about.

    Raises RemoteProtocolError for a malformed one, Refusal for one that is too large to keep.
    """
    proof = decode(data, Equivocation)
    if max(len(encode(proof.one)), len(encode(proof.other))) > MAX_PROOF:
        raise Refusal(f"a record of a proof has at most {MAX_PROOF} bytes")
    return proof, open_signed(proof.one, LedgerRecord).run
