"""What a node makes of valid values: the fold of a ledger, admission, and the schedule."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial

from msgspec.structs import replace

from dipaco.node.runs.store import RunStore
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import Manifest, Reshard, Routing, run_id
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.messages import MAX_RECORDS
from dipaco.protocol.wire.signed import MAX_BODY, sign
from dipaco.protocol.work.calls import HandBack, Heartbeat, Submit
from dipaco.protocol.work.ledger import Entry, LedgerRecord, append_checked
from dipaco.protocol.work.rounds import Rounds
from dipaco.protocol.work.run_state import RunState
from dipaco.protocol.work.terms import FIRST_TERM, NO_HEAD, NO_RECORD
from tests.fuzz import cbor
from tests.fuzz.mutate import Cbor
from tests.fuzz.target import Call, Target, hold
from tests.fuzz.targets.files import folder
from tests.fuzz.targets.wire import envelope, grammar, of
from tests.node.scheduler.shell import ANNA, BERT, Shell, result
from tests.values import digest, key, manifest, peer

WEIGHTS = (40, 30, 20, 10)
LIST_LIMIT = 1 << 16  # bytes of the largest list of entries; an answer has four times as many
SIGNED_LIMIT = 1 << 14  # bytes of the largest list of records: the fuzzer itself signs each, slowly
SCHEDULER = key("scheduler")


def runs() -> dict[str, Manifest]:
    """Return runs whose ledgers differ in what their entries must hold."""
    plain = manifest()
    return {
        "plain": plain,
        "reset": manifest(training=replace(plain.training, inner_state="reset")),
        "stopping": manifest(training=replace(plain.training, early_stopping=True)),
        "reshard": manifest(
            routing=Routing(
                featurizer="bag-sign-v1",
                sample=128,
                dimension=64,
                router_bp=1000,
                reshard=Reshard(after_round=1, scorers=1),
            )
        ),
    }


@cache
def honest(name: str) -> tuple[Entry, ...]:
    """Return the entries of an honest ledger of a run, as far as two volunteers bring it."""
    shell = Shell(runs()[name], WEIGHTS)
    entries: list[Entry] = []
    shell.seed()
    for _ in range(40):
        lease = shell.ask(ANNA)
        if not hasattr(lease, "token"):
            break
        made = result(lease, documents=20)  # type: ignore[arg-type]
        if name == "reset" and hasattr(made, "moments"):
            made = replace(made, moments=())
        shell.hand_in(ANNA, made)
        shell.arrive()
        shell.step()
    entries += [change.entry for change in shell.log if hasattr(change, "entry")]
    return tuple(entries)


def entries(name: str) -> tuple[bytes, ...]:
    """Return the entries as one list, and the first half of them."""
    made = [encode(entry) for entry in honest(name)]
    return tuple(
        cbor.head(cbor.ARRAY, len(part)) + b"".join(part) for part in (made, made[: len(made) // 2])
    )


def parts(data: bytes) -> Iterator[bytes]:
    """Yield the encoded items of a list; raises RemoteProtocolError for bytes that are none."""
    try:
        head = cbor.head_at(data, 0)
        place = head.body
        if head.major != cbor.ARRAY or head.value > MAX_RECORDS:
            raise RemoteProtocolError("no list of entries, or more than one answer has")
        for _ in range(head.value):
            end = cbor.end_of(data, place)
            yield data[place:end]
            place = end
    except (IndexError, OverflowError):
        raise RemoteProtocolError("no list of entries") from None


def fold(run: Manifest, data: bytes) -> None:
    """Fold entries as far as they follow, then ask all that a node asks of a ledger's fold."""
    state = RunState(run)
    rounds = Rounds(state, {digest("spec"): WEIGHTS}.get)
    try:
        for each in parts(data):
            state.apply(decode(each, Entry, limit=MAX_BODY))  # type: ignore[arg-type]
    finally:
        asked(state, rounds)


def asked(state: RunState, rounds: Rounds) -> None:
    """Ask what status, scheduling and volunteers ask of a fold, whatever is in it."""
    rounds.finished, list(rounds.due_evaluations(behind=1)), state.sheets(), state.epoch
    every = {(path, number) for path in range(state.topology.paths) for number in range(4)}
    list(rounds.due_steps(every))
    for path in range(state.topology.paths):
        version = state.path_version(path)
        state.first_unevaluated(path, 0), state.path_moments(path, 2), state.steps_before(path, 2)
        if version >= 0:
            state.path_states(path, version)
            hold(0 <= state.kept_version(path) <= version, "a version that does not exist is kept")
    for module in state.states:
        state.residual(module), list(state.back_from(module, state.version(module)))


def chain(bodies: Sequence[Entry]) -> tuple[bytes, ...]:
    """Return the records of a ledger, unsigned."""
    previous, records = NO_RECORD, []
    for seq, entry in enumerate(bodies):
        record = LedgerRecord(
            run=run_id(manifest()), term=FIRST_TERM, seq=seq, previous=previous, entry=entry
        )
        records.append(encode(record))
        previous = sign(record, SCHEDULER).body_digest
    return tuple(records)


@cache
def records() -> tuple[bytes, ...]:
    """Return the records of an honest ledger as one list."""
    made = chain(honest("plain")[:12])
    return tuple(
        cbor.head(cbor.ARRAY, len(part)) + b"".join(part) for part in (made, made[:3], made[3:])
    )


def checked(data: bytes) -> None:
    """Check records that their scheduler signed, whatever is in them."""
    append_checked(
        [envelope(LedgerRecord, each) for each in parts(data)],
        run=run_id(manifest()),
        manifest=manifest(),
        head=NO_HEAD,
        digest_of=[].__getitem__,
    )


@contextmanager
def store() -> Iterator[RunStore]:
    """Yield a store on a real journal that works for a run: it drops no ledger of it."""
    with folder() as root:
        journal = Journal.open(root / "journal.sqlite")
        try:
            made = RunStore(journal, peer("me"))
            made.offer("manifest", encode(sign(manifest(), key("owner"))))
            made.keep(run_id(manifest()))
            yield made
        finally:
            journal.close()


@contextmanager
def offering(kind: type[Wire], name: str) -> Iterator[Call]:
    """Yield a call that signs a body and offers it to one store."""
    with store() as made:

        def call(body: bytes) -> None:
            made.offer(name, encode(envelope(kind, body)))
            made.inventory()

        yield call


@contextmanager
def offering_ledgers() -> Iterator[Call]:
    """Yield a call that offers signed records to one store."""
    run = run_id(manifest())
    with store() as made:

        def call(data: bytes) -> None:
            signed = tuple(encode(envelope(LedgerRecord, each)) for each in parts(data))
            before = made.runs[run].length
            try:
                made.offer_ledger(run, signed)
            except (RemoteProtocolError, Refusal):
                hold(made.runs[run].length == before, "a refused ledger was taken in")
                raise
            made.read_ledger(run, 0, 1 << 20)

        yield call


def receipts() -> tuple[bytes, ...]:
    verdict = Verdict(outcome=Outcome.VERIFIED, stage="spec", reason="same")
    made = Receipt(manifest=run_id(manifest()), spec=digest("spec"), verdict=verdict, software="a")
    return (encode(made),)


def specs() -> tuple[bytes, ...]:
    run = run_id(manifest())
    return tuple(
        encode(replace(decode(data, RouterSpec, limit=MAX_BODY), manifest=run))
        for data in of("RouterSpec")
    )


@contextmanager
def scheduling() -> Iterator[Call]:
    """Yield a call that hands one message of a volunteer to a schedule with a lease of its own."""
    shell = Shell(manifest(), WEIGHTS)
    shell.seed()
    shell.lease(ANNA), shell.lease(BERT)

    def call(data: bytes) -> None:
        message = decode(data, Submit | HandBack | Heartbeat, limit=1 << 20)  # type: ignore[arg-type]
        match message:
            case Submit():
                shell.schedule.submit(ANNA, message.result, now=1.0)
            case HandBack():
                shell.schedule.hand_back(ANNA, message.token, message.reason, now=1.0)
            case Heartbeat():
                shell.schedule.heartbeat(ANNA, message.token, progress=message.progress, now=1.0)
        shell.schedule.expire(2.0), list(shell.schedule.due_steps()), shell.schedule.deadlock

    yield call


def messages() -> tuple[bytes, ...]:
    """Return what an honest volunteer sends about its lease."""
    shell = Shell(manifest(), WEIGHTS)
    shell.seed()
    lease = shell.lease(ANNA)
    run, token = run_id(manifest()), lease.token
    return tuple(
        map(
            encode,
            (
                Submit(run=run, result=result(lease)),
                HandBack(run=run, token=token, reason="paused"),
                Heartbeat(run=run, token=token, progress=3, tokens_per_second=10.0, loss=2.0),
            ),
        )
    )


def targets() -> Iterator[Target]:
    """Yield folds of several runs, the check of a chain, admissions, and the schedule."""
    for name, run in runs().items():
        yield Target(
            f"fold/{name}",
            partial(entries, name),
            (RemoteProtocolError,),
            lambda: Cbor((1, 2, 3, 4, 16, 1024), of("Seeded", "ModuleUpdated", "Scored")),
            call=partial(fold, run),
            limit=LIST_LIMIT,
        )
    yield Target(
        "fold/chain",
        records,
        (RemoteProtocolError,),
        partial(grammar, LedgerRecord),
        call=checked,
        limit=SIGNED_LIMIT,
    )
    refused = (RemoteProtocolError, Refusal, Unavailable)
    for kind, seeds in (
        (Manifest, partial(of, "Manifest")),
        (RouterSpec, specs),
        (Receipt, receipts),
    ):
        name = {Manifest: "manifest", RouterSpec: "spec", Receipt: "receipt"}[kind]
        yield Target(
            f"admission/{name}",
            seeds,
            refused,
            partial(grammar, kind),
            opened=partial(offering, kind, name),
            limit=1 << 20,
        )
    yield Target(
        "admission/ledger",
        records,
        refused,
        partial(grammar, LedgerRecord),
        opened=offering_ledgers,
        batch=100,
        limit=SIGNED_LIMIT,
    )
    yield Target(
        "schedule/messages",
        messages,
        (RemoteProtocolError,),
        partial(grammar, Submit | HandBack | Heartbeat),
        opened=scheduling,
    )
