"""One value of every wire type, and more where a field may be empty or one of several types.

Nothing here is random: keys, digests and times are the same for ever, and Ed25519 signatures
follow from the key and what is signed. Change no value, add one: these bytes are what a released
node understands.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np

import dipaco.protocol
from dipaco.protocol.routing.integers import Int32
from dipaco.protocol.routing.spec import (
    Fit,
    RouterSpec,
    SpecBasis,
    int32_bytes,
    int64_bytes,
    spec_digest,
)
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import Capacity, Manifest, Reshard, Routing, Scheduling, run_id
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.source import Source, SourceFile, Tokenizer
from dipaco.protocol.run.training import Adam, Muon, Nesterov, Quorum, Training
from dipaco.protocol.wire.canonical import Wire, encode
from dipaco.protocol.wire.messages import (
    Absent,
    Announcement,
    AskChunk,
    AskHave,
    AskInventory,
    AskOutline,
    AskOutside,
    AskPresence,
    Failure,
    Have,
    Inventory,
    Item,
    LedgerPart,
    Listing,
    ListPeers,
    Outline,
    Outside,
    PeerRecord,
    Ping,
    Pong,
    PresenceIs,
    ReadLedger,
    ReadValue,
    Register,
    Registered,
    Reply,
    Request,
    Value,
)
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.calls import (
    Acceptance,
    AskCosign,
    AskHead,
    AskHold,
    AskHolders,
    AskKeep,
    AskLease,
    AskNext,
    AskPromise,
    Behind,
    CosignedHead,
    Fallen,
    Granted,
    HandBack,
    HeadIs,
    Heartbeat,
    Held,
    Holders,
    Holding,
    Kept,
    NoLease,
    Noted,
    Promised,
    ReadTail,
    Reclaim,
    Stands,
    Submit,
    TailPart,
    TermLeft,
    Wanted,
)
from dipaco.protocol.work.kinds import (
    Evaluated,
    EvaluateLease,
    EvaluateResult,
    Evaluation,
    MomentsReplaced,
    Scored,
    ScoreLease,
    ScoreResult,
    Seeded,
    SeedLease,
    SeedResult,
    Sheet,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.ledger import (
    Contribution,
    Entry,
    Equivocation,
    LedgerRecord,
    ModuleUpdated,
    Quantised,
    RoundMissed,
    SpecAdopted,
    TermBegun,
    TermGranted,
)
from dipaco.protocol.work.terms import (
    FIRST_TERM,
    NO_HEAD,
    NO_RECORD,
    Cosigned,
    Head,
    OwnersGrant,
    Promise,
)
from tests.values import digest, key, peer


@cache
def wire_types() -> tuple[type[Wire], ...]:
    """Return every type of value that peers exchange, by name."""
    for module in pkgutil.walk_packages(dipaco.protocol.__path__, "dipaco.protocol."):
        importlib.import_module(module.name)
    found = {
        kind
        for kind in _below(Wire)
        if kind.__module__.startswith("dipaco.protocol.") and not kind.__name__.startswith("_")
    }
    return tuple(sorted(found, key=lambda kind: kind.__name__))


def _below(kind: type[Wire]) -> Iterator[type[Wire]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


@cache
def values() -> dict[str, tuple[Wire, ...]]:
    """Return the examples, by the name of their type."""
    examples = (
        *_manifests(),
        *_specs(),
        *_leases(),
        *_entries(),
        *_work(),
        *_keepers(),
        *_calls(),
        *_directory(),
        *_gossip(),
        *_blobs(),
    )
    found: dict[str, dict[bytes, Wire]] = {}
    for value in _with_parts(examples):
        found.setdefault(type(value).__name__, {})[encode(value)] = value
    return {name: tuple(found[name].values()) for name in sorted(found)}


def _with_parts(examples: Iterable[object]) -> Iterator[Wire]:
    """Yield the wire values among `examples` and those inside them."""
    for value in examples:
        if isinstance(value, Wire):
            yield value
            fields = msgspec.structs.fields(type(value))
            yield from _with_parts(getattr(value, field.name) for field in fields)
        elif isinstance(value, tuple):
            yield from _with_parts(value)


SMALLEST = Manifest(
    name="tiny",
    owner=peer("owner"),
    source=Source(kind="synthetic", revision="1", files=(), documents=400, window=400),
    tokenizer=Tokenizer(sha256=digest("tokenizer"), size=1000, vocabulary=4096, end_of_text=0),
    model=Model(d_model=16, heads=2, kv_heads=2, d_ff=32, context=48),
    grid=Grid(
        levels=(Level(experts=2, blocks=1), Level(experts=2, blocks=1)), path_specific_blocks=()
    ),
    routing=Routing(sample=128, featurizer="bag-sign-v1", dimension=64),
    training=Training(
        seed_steps=2,
        rounds=2,
        inner_steps=2,
        batch=2,
        inner=Adam(warmup=1),
        outer=Nesterov(),
        deltas="f32",
        updates="f32",
    ),
    schedule=Scheduling(schedulers=(peer("scheduler"),), members=()),
    seed=0,
)


def _manifests() -> tuple[Wire, ...]:
    """The smallest, one that leaves no list empty and no part missing, one with later fields."""
    full = msgspec.structs.replace(
        SMALLEST,
        name="second.run-2",
        source=Source(
            kind="hub",
            revision="2f8b5c3d9e0a417f6b8c2d1e5a7f903b4c6d8e1f",
            dataset="owner/books-2",
            config="default",
            split="train",
            files=(
                SourceFile(
                    name="data/a-00000.parquet",
                    size=1 << 33,
                    sha256=digest("file"),
                    rows=1_000_000,
                ),
            ),
            text_field="content",
            documents=1_000_000,
            window=250_000,
        ),
        grid=Grid(
            levels=(Level(experts=2, blocks=2), Level(experts=3, blocks=1)),
            path_specific_blocks=(0, 2),
            path_specific_stem=True,
        ),
        routing=Routing(
            featurizer="bag-sign-v1",
            sample=4096,
            prefix=16,
            dimension=128,
            capacity=Capacity(num=5, den=4),
            overlap=2,
            beacon=bytes(range(16)),
            router_bp=50,
            reshard=Reshard(after_round=1, tolerance=6, scorers=2, candidates=4, windows=3),
        ),
        schedule=Scheduling(
            schedulers=(peer("scheduler"), peer("second")), members=(peer("volunteer"),)
        ),
        start=(
            ModuleDigest(module="L1.E0", digest=digest("warm")),
            ModuleDigest(module="p0", digest=digest("start")),
        ),
    )
    later = msgspec.structs.replace(
        full,
        routing=msgspec.structs.replace(
            full.routing, capacity=Capacity(num=5, den=4, unit="tokens"), scored_from=24
        ),
        training=msgspec.structs.replace(
            full.training,
            batch_order=digest("order"),
            inner=Muon(warmup=1),
        ),
    )
    quorum = Quorum(num=3, den=4, grace=60)
    late = msgspec.structs.replace(
        SMALLEST, training=msgspec.structs.replace(SMALLEST.training, quorum=quorum)
    )
    kept = msgspec.structs.replace(
        SMALLEST,
        schedule=Scheduling(
            schedulers=(peer("scheduler"), peer("second")),
            keepers=tuple(peer(f"keeper {name}") for name in "abcd"),
            quorum=4,
            copies=3,
        ),
    )
    return SMALLEST, full, later, late, kept, sign(SMALLEST, key("owner"))


def _specs() -> tuple[Wire, ...]:
    fitted = RouterSpec(
        kind="kmeans",
        featurizer="bag-sign-v1",
        capacity="bias-v1",
        manifest=run_id(SMALLEST),
        epoch=0,
        counts="documents",
        paths=4,
        vocabulary=4096,
        prefix=32,
        prefix_bytes=512,
        dimension=8,
        norm_bits=10,
        scale_bits=8,
        tokenizer=digest("tokenizer"),
        feat_seed=digest("feature seed"),
        mean=int32_bytes(_ramp(8, 17)),
        centroids=int32_bytes(_ramp(32, 7919)),
        bias=int64_bytes([0, 1, 1 << 33, 1 << 40]),
        fit=Fit(
            n_fit=128,
            restart=2,
            updates=9,
            inertia=(1 << 70).to_bytes(16, "little"),
            source_bytes=digest("source bytes"),
            tokens=digest("tokens"),
            features=digest("features"),
            centroids=digest("centroids"),
        ),
        documents=(32, 40, 30, 26),
        tokens=(3200, 4000, 3000, 2600),
    )
    assert fitted.fit is not None
    resharded = msgspec.structs.replace(
        fitted,
        kind="class_means",
        epoch=1,
        fit=msgspec.structs.replace(fitted.fit, restart=0, updates=0, labels=digest("labels")),
    )
    with_basis = msgspec.structs.replace(
        fitted,
        featurizer="idf-svd-v1",
        basis=SpecBasis(
            terms=int32_bytes(np.array([7, 500, 4095], dtype=np.int32)),
            idf=bytes([5, 1, 4]),
            columns=_ramp(24, 683).astype("<i2").tobytes(),
        ),
        fit=msgspec.structs.replace(fitted.fit, idf=digest("idf"), basis=digest("basis")),
    )
    nothing = {"mean": b"", "centroids": b"", "bias": b"", "fit": None}
    unfitted = msgspec.structs.replace(
        fitted,
        kind="round_robin",
        capacity="none",
        documents=(1, 1, 1, 1),
        tokens=(1, 1, 1, 1),
        **nothing,
    )
    verdict = Verdict(outcome=Outcome.REFUTED, stage="features", reason="mean differs")
    receipt = Receipt(
        manifest=fitted.manifest,
        spec=spec_digest(fitted),
        verdict=verdict,
        software="dipaco-node 0.1.0",
    )
    return (
        fitted,
        resharded,
        unfitted,
        with_basis,
        sign(fitted, key("scheduler")),
        sign(receipt, key("volunteer")),
        receipt,
    )


def _ramp(length: int, step: int) -> Int32:
    return (np.arange(length, dtype=np.int32) - length // 2) * np.int32(step)


MODULES = tuple(ModuleDigest(module=m, digest=digest(m)) for m in ("stem", "L1.E0", "L2.E1"))
TOKEN = bytes(range(16))
SHARED: dict[str, Any] = {
    "run": digest("run"),
    "token": TOKEN,
    "window": 0,
    "spec": digest("spec"),
    "modules": MODULES,
    "ttl": 20,
}
LEASE = TrainLease(**SHARED, path=1, round=2, moments=())
SHEET = Sheet(digest=digest("sheet"), documents=125)
EVALUATION = Evaluation(documents=20, tokens=1234, nll=4321.0625)
WITH_BYTES = Evaluation(documents=20, tokens=1234, nll=4321.0625, bytes=4_007)
FIGURES: dict[str, Any] = {"tokens": 61440, "seconds": 31.25, "loss_first": 7.5, "loss_last": 3.412}
RESULT = TrainResult(token=TOKEN, deltas=MODULES, moments=(), **FIGURES)


def _leases() -> tuple[Wire, ...]:
    carried = tuple(ModuleDigest(module=m.module, digest=digest("moments")) for m in MODULES)
    return (
        SeedLease(**{**SHARED, "modules": ()}),
        SeedResult(token=TOKEN, states=MODULES, **FIGURES),
        LEASE,
        RESULT,
        msgspec.structs.replace(LEASE, moments=carried),
        msgspec.structs.replace(RESULT, moments=carried),
        EvaluateLease(**SHARED, path=1, version=2),
        EvaluateResult(token=TOKEN, evaluation=EVALUATION),
        EvaluateResult(token=TOKEN, evaluation=WITH_BYTES),
        ScoreLease(**SHARED, path=1, version=1),
        ScoreResult(token=TOKEN, sheet=SHEET),
    )


def _entries() -> tuple[Wire, ...]:
    entries: tuple[Entry, ...] = (
        SpecAdopted(epoch=0, spec=digest("spec")),
        Seeded(peer=peer("volunteer"), states=MODULES),
        ModuleUpdated(
            module="L1.E0",
            version=1,
            contributions=(
                Contribution(path=0, peer=peer("a"), delta=digest("delta 0"), weight=3200),
                Contribution(path=1, peer=peer("b"), delta=digest("delta 1"), weight=4000),
            ),
            state=digest("state"),
            momentum=digest("momentum"),
        ),
        Evaluated(path=1, version=1, peer=peer("b"), evaluation=EVALUATION),
        ModuleUpdated(
            module="L1.E0",
            version=2,
            contributions=(
                Contribution(
                    path=0,
                    peer=peer("a"),
                    delta=digest("delta 0"),
                    weight=3200,
                    moments=digest("moments"),
                ),
            ),
            state=digest("state"),
            momentum=digest("momentum"),
            quantised=Quantised(update=digest("update"), residual=digest("residual")),
        ),
        Scored(path=1, window=0, peer=peer("b"), sheet=SHEET),
        MomentsReplaced(path=0, round=2, peer=peer("c"), moments=MODULES),
        SpecAdopted(epoch=1, spec=digest("next spec"), live=(0, 2, 3)),
        RoundMissed(path=3, round=2),
    )
    chain, previous = [], NO_RECORD
    for seq, entry in enumerate(entries):
        record = LedgerRecord(
            run=digest("run"), term=FIRST_TERM, seq=seq, previous=previous, entry=entry
        )
        signed = sign(record, key("scheduler"))
        chain += [record, signed]
        previous = signed.body_digest
    return tuple(chain)


HEAD = Head(term=1, length=3, digest=digest("record 2"))
RUN = digest("run")


def _promise(keeper: str, head: Head) -> Signed:
    return sign(Promise(run=RUN, term=2, keeper=peer(keeper), head=head), key(keeper))


def _terms() -> tuple[Wire, ...]:
    """Return what keepers and the owner sign, and the records that begin terms."""
    grant = OwnersGrant(run=RUN, term=3, head=HEAD)
    promises = _promise("keeper a", NO_HEAD), _promise("keeper b", HEAD)
    entries: tuple[Entry, ...] = (
        TermBegun(promises=promises),
        TermGranted(grant=sign(grant, key("owner"))),
    )
    records = [
        LedgerRecord(run=RUN, term=term, seq=3, previous=HEAD.digest, entry=entry)
        for term, entry in enumerate(entries, 2)
    ]
    two = [msgspec.structs.replace(records[0], seq=seq) for seq in (3, 4)]
    one, other = (sign(record, key("scheduler")) for record in two)
    return (
        NO_HEAD,
        Promise(run=RUN, term=2, keeper=peer("keeper b"), head=HEAD),
        Cosigned(run=RUN, keeper=peer("keeper a"), head=HEAD),
        grant,
        *records,
        Equivocation(one=one, other=other),
    )


def _certificate() -> tuple[Signed, ...]:
    names = "keeper a", "keeper b"
    return tuple(sign(Cosigned(run=RUN, keeper=peer(n), head=HEAD), key(n)) for n in names)


def _keepers() -> tuple[Wire, ...]:
    record = sign(
        LedgerRecord(
            run=RUN,
            term=FIRST_TERM,
            seq=0,
            previous=NO_RECORD,
            entry=SpecAdopted(epoch=0, spec=digest("spec")),
        ),
        key("scheduler"),
    )
    acceptance = Acceptance(
        run=RUN, term=1, order=4, path=1, round=2, peer=peer("volunteer"), result=RESULT
    )
    kept = (sign(acceptance, key("scheduler")),)
    return (
        *_terms(),
        acceptance,
        Reclaim(lease=LEASE),
        AskPromise(run=RUN, term=2),
        Promised(promise=_promise("keeper b", HEAD), acceptances=kept, more=False),
        Behind(term=3, head=HEAD, final=2),
        AskCosign(run=RUN, records=(record,), head=HEAD, certificate=()),
        AskCosign(run=RUN, records=(), head=HEAD, certificate=_certificate()),
        CosignedHead(cosigned=_certificate()[0]),
        AskKeep(run=RUN, term=1, acceptances=kept),
        Kept(),
        ReadTail(run=RUN, first=3, path=0, round=0),
        TailPart(records=(record,), acceptances=kept, more=True),
        AskHold(
            run=RUN, blobs=(Wanted(blob=digest("delta"), length=64),), holders=(peer("volunteer"),)
        ),
        Holding(blobs=(digest("delta"),)),
        AskHead(run=RUN),
        TermLeft(run=RUN, term=1),
        Noted(),
        HeadIs(term=1, head=HEAD, scheduling=True, votes=False),
        AskLease(run=RUN, spec=digest("spec"), head=HEAD),
    )


def _work() -> tuple[Wire, ...]:
    run = digest("run")
    beat = Heartbeat(run=run, token=TOKEN, progress=15, tokens_per_second=1640.5)
    return (
        AskLease(run=run, spec=digest("spec")),
        AskNext(run=run, spec=digest("spec"), token=TOKEN),
        Granted(lease=LEASE),
        NoLease(code="no-lease", reason="all work is leased", retry_after=2.0),
        NoLease(code="no-lease", reason="all work is leased", retry_after=6.0, place=3, places=8),
        beat,
        msgspec.structs.replace(beat, loss=3.412),
        HandBack(run=run, token=TOKEN, reason="paused by you"),
        Submit(run=run, result=RESULT),
        Stands(),
        AskHolders(run=run),
        Holders(
            held=(
                Held(path=1, round=2, peer=peer("anna"), submitted=False, loss=3.412),
                Held(path=3, round=1, peer=peer("bob"), submitted=True),
            )
        ),
        Fallen(reason="the lease no longer stands"),
    )


def _calls() -> tuple[Wire, ...]:
    return (
        Request(id=7, kind="Ping", body=encode(Ping())),
        Reply(id=7, body=encode(Pong())),
        Failure(id=7, fault="unavailable", reason="run 01020304 is not known yet"),
        Ping(),
        Pong(),
        AskOutside(port=4410),
        Outside(observed="203.0.113.7", time=1_700_000_000_000, port="answers"),
    )


def _directory() -> tuple[Wire, ...]:
    record = PeerRecord(
        peer=peer("volunteer"),
        addresses=("/ip4/203.0.113.7/tcp/4410", "/ip6/2001:db8::7/tcp/4410"),
        roles=("volunteer",),
        runs=(digest("run"),),
        sequence=1_700_000_000_000,
    )
    signed = sign(record, key("volunteer"))
    return (
        record,
        Register(records=(signed,)),
        Registered(observed="203.0.113.7", life=30),
        ListPeers(run=None, most=50),
        ListPeers(run=digest("run"), most=8),
        Listing(records=(signed,)),
    )


def _gossip() -> tuple[Wire, ...]:
    head = Item(kind="ledger", run=digest("run"), digest=digest("head"), seq=12)
    kept = Item(kind="manifest", run=digest("run"), digest=digest("manifest"), seq=0)
    return (
        Announcement(item=head, size=412),
        AskInventory(summary=digest("inventory")),
        Inventory(same=True, items=()),
        Inventory(same=False, items=(head, kept)),
        ReadValue(item=kept),
        Value(data=None),
        Value(data=encode(sign(SMALLEST, key("owner")))),
        ReadLedger(run=digest("run"), first=10),
        LedgerPart(records=(encode(_entries()[1]),)),
        LedgerPart(records=(encode(_entries()[1]),), certificate=_certificate()),
    )


def _blobs() -> tuple[Wire, ...]:
    return (
        AskHave(blob=digest("blob")),
        AskPresence(blobs=(digest("blob"), digest("other"))),
        PresenceIs(blobs=("held", "coming")),
        Have(held=True),
        AskOutline(blob=digest("blob")),
        Outline(length=1_500_000, chunk=1 << 20, digests=(digest("part 0"), digest("part 1"))),
        Absent(),
        AskChunk(index=1),
    )
