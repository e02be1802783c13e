"""A node's status as lines for people."""

import time

from dipaco.cli.views.layout import Column, fitted, table_text
from dipaco.cli.views.text import label
from dipaco.node.status.document import (
    PathStatus,
    Reason,
    RunBlock,
    RunStatus,
    Status,
    TaskStatus,
)
from dipaco.protocol.numbers import amount, count, size, span
from dipaco.protocol.wire.identity import PeerId, fingerprint, short_peer
from dipaco.protocol.wire.text import escaped
from dipaco.protocol.work.losses import bits_text, vocabulary_text

WHOLE_PEERS = 100  # columns from which on PeerIDs of others are shown whole
MAX_OFFERS = 8  # runs on offer that are shown
HANG = 9  # columns of a row's name

PATH_COLUMNS = (
    Column("path", words=True),
    Column("round"),
    Column("state", words=True),
    Column("loss", drop=2),
    Column("holder", words=True, drop=1),
)


def status_text(status: Status, width: int | None = None) -> str:
    """Return the status as lines no wider than `width` columns; None: of any width."""
    several = len(status.runs) > 1
    rows = [
        ("node", _node(status, width)),
        ("state", _state(status)),
        ("offers", "" if status.run else _offers(status)),
        ("run", _run(status.run) if status.run and not several else ""),
        ("held out", _held_out(status.run) if status.run and not several else ""),
        ("task", _task(status.task) if status.task else ""),
        ("network", _network(status)),
        ("listen", _addresses(status, width)),
        ("cache", _cache(status)),
        ("done", _totals(status)),
        ("memory", _memory(status)),
        *(("refuted", line) for line in _refuted(status)),
    ]
    blocks = [_lines(rows, width)]
    if several:
        blocks += [_block(status, run, width) for run in status.runs]
    elif status.swarm:
        blocks += [_swarm(status.swarm, status.peer, width), *_told(status)]
    return "\n".join(blocks)


def short_text(status: Status) -> str:
    """Return one line: the state with its reason, the run with its round, and the peers."""
    run = status.run
    parts = (
        f"{status.state}: {status.reason.text}",
        f"{run.name} round {run.round} of {run.rounds}" if run else "no run",
        count(status.network.peers, "peer"),
    )
    return "  ".join(map(escaped, parts))


def _lines(rows: list[tuple[str, str]], width: int | None) -> str:
    shown = (f"{name:<{HANG - 1}} {text}" for name, text in rows if text)
    return fitted("\n".join(shown), width, hang=HANG)


def _block(status: Status, run: RunBlock, width: int | None) -> str:
    """Return one run of several."""
    state = f"{run.state}: {'; '.join(escaped(each.text) for each in run.reasons)}"
    rows = [("run", _run(run)), ("state", state), ("held out", _held_out(run))]
    return "\n".join(("", _lines(rows, width), _swarm(run.swarm, status.peer, width)))


def _node(status: Status, width: int | None) -> str:
    role = "rendezvous, " if status.rendezvous else ""
    who = status.peer if _has_room(width, HANG + len(status.peer)) else _short(status.peer)
    return f"{who}  {role}up {span(status.uptime_s)}, version {status.version}"


def _state(status: Status) -> str:
    reasons = status.reasons or (status.reason,)
    return f"{status.state}: {'; '.join(_reason(status, each) for each in reasons)}"


def _reason(status: Status, reason: Reason) -> str:
    """Return a reason; one that has lasted says for how long, if it is waited out."""
    lasts = status.time - reason.since
    if reason.until is None or lasts < 1:
        return escaped(reason.text)
    since = time.strftime("%H:%M:%S", time.localtime(reason.since))
    return f"{escaped(reason.text)} (since {since})"


def _offers(status: Status) -> str:
    shown = [
        f"{o.name} ({o.id[:8]}, signer {fingerprint(PeerId(o.owner))})"
        for o in status.offers[:MAX_OFFERS]
    ]
    more = len(status.offers) - MAX_OFFERS
    return ", ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def _run(run: RunStatus) -> str:
    where = f" at {run.stage}" if run.stage else ""
    spec = f" spec {run.spec[:8]}" if run.spec else ""
    others = f" (others: {run.verified} verified, {run.refuted} refuted)" if run.spec else ""
    return (
        f"{run.name}  id {run.id[:8]}  round {run.round} of {run.rounds}"
        f"{', finished' if run.finished else ''}  router {run.verdict}{where}{spec}{others}"
        f"  signer {fingerprint(PeerId(run.owner))}"
    )


def _held_out(run: RunStatus) -> str:
    """Return the loss of the last evaluation; empty before there is one."""
    found = run.held_out
    if found is None or found.perplexity is None:
        return ""
    model = f"after round {found.version}" if found.version else "of the seed model"
    words = vocabulary_text(found.vocabulary)
    bits = bits_text(found.bits_per_byte)
    return f"{bits} bits per byte {model}, perplexity {found.perplexity:.1f} ({words})"


def _refuted(status: Status) -> list[str]:
    """Return a line for every other run whose router peers refute."""
    mine = {run.id for run in status.runs} | ({status.run.id} if status.run else set())
    return [
        f"router of {offer.name} ({offer.id[:8]}), by {count(offer.refuted, 'peer')}"
        for offer in status.offers
        if offer.refuted and offer.id not in mine
    ]


def _task(task: TaskStatus) -> str:
    where = "" if task.kind == "derive" else f" path {task.path} round {task.round}"
    done = amount(task.done, task.total, task.unit)
    speed = f"{task.tokens_per_second:,.0f} tokens/s" if task.tokens_per_second else ""
    loss = f"loss {task.loss:.3f}" if task.loss is not None else ""
    parts = (f"{task.kind}{where}: {task.stage} {done}".strip(), speed, loss)
    return "  ".join(part for part in parts if part)


def _network(status: Status) -> str:
    net = status.network
    peers = count(net.peers, "peer")
    return f"{peers}, {size(net.sent)} sent, {size(net.received)} received"


def _addresses(status: Status, width: int | None) -> str:
    """Return the present addresses; a narrow terminal gets them without the PeerID."""
    listen = status.network.listen
    if not _has_room(width, WHOLE_PEERS):
        listen = tuple(address.partition("/p2p/")[0] for address in listen)
    return "  ".join(listen) or "no address"


def _cache(status: Status) -> str:
    cache = status.cache
    shards = count(cache.shards, "shard")
    if cache.measured is None:
        return f"not measured yet, at most {size(cache.max)}, {shards}"
    return f"{size(cache.bytes)} of {size(cache.max)}, at most {shards}"


def _totals(status: Status) -> str:
    totals = status.totals
    return (
        f"{totals.accepted:,} accepted, {totals.refused:,} refused, "
        f"{count(totals.tokens, 'token')} in {span(totals.seconds)}; "
        f"{size(totals.sent)} sent, {size(totals.received)} received in all"
        + (f"; loss fell by {totals.improvement:.3f}" if totals.improvement else "")
        + (f"; {totals.estimated_wh / 1000:.2f} kWh estimated" if totals.estimated_wh else "")
    )


def _memory(status: Status) -> str:
    worker = status.memory.worker
    return f"{size(status.memory.daemon)}, {f'worker {size(worker)}' if worker else 'no worker'}"


def _swarm(paths: tuple[PathStatus, ...], me: str, width: int | None) -> str:
    rows = [
        (
            label(path.experts),
            str(path.round),
            path.state,
            f"{path.loss:.3f}" if path.loss is not None else "-",
            _holder(path.holder, me, width),
        )
        for path in paths
    ]
    return table_text(PATH_COLUMNS, rows, width)


def _holder(peer: str, me: str, width: int | None) -> str:
    if not peer or peer == me:
        return "this node" if peer else "-"
    return peer if _has_room(width, WHOLE_PEERS) else _short(peer)


def _told(status: Status) -> list[str]:
    """Return since when the holders are known, if that is long ago, or that they are not."""
    told = status.runs[0].swarm_time if status.runs else status.time
    if told is None:
        return ["others' work: not told by the scheduler yet"]
    late = status.time - told
    return [f"others' work: as of {span(late)} ago"] if late >= 60 else []


def _has_room(width: int | None, wanted: int) -> bool:
    return width is None or width >= wanted


def _short(peer: str) -> str:
    return short_peer(PeerId(peer))
