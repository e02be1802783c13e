"""A node's status as a few lines for people."""

from dipaco.node.status.document import Status


def status_text(status: Status) -> str:
    """Return the status as a few lines for people."""
    rows = [
        ("node", f"{status.peer}  {'rendezvous, ' if status.rendezvous else ''}{_up(status)}"),
        ("state", f"{status.state}: {status.reason.text}"),
        ("run", _run(status)),
        ("task", _task(status)),
        ("network", _network(status)),
        ("cache", _cache(status)),
        ("done", _totals(status)),
        ("memory", f"{_mb(status.memory.daemon)}, worker {_mb(status.memory.worker)}"),
    ]
    rows += [("refuted", line) for line in _refuted(status)]
    rows += [("path", line) for line in _swarm(status)]
    return "\n".join(f"{name:<8} {text}" for name, text in rows if text)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _up(status: Status) -> str:
    minutes, seconds = divmod(round(status.uptime_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"up {hours}:{minutes:02d}:{seconds:02d}, version {status.version}"


def _run(status: Status) -> str:
    run = status.run
    if run is None:
        return ", ".join(f"{o.name} ({o.id[:8]}) on offer" for o in status.offers)
    where = f" at {run.stage}" if run.stage else ""
    spec = f" spec {run.spec[:8]}" if run.spec else ""
    others = f" (others: {run.verified} verified, {run.refuted} refuted)" if run.spec else ""
    return (
        f"{run.name}  id {run.id[:8]}  round {run.round} of {run.rounds}"
        f"{', finished' if run.finished else ''}  router {run.verdict}{where}{spec}{others}"
    )


def _refuted(status: Status) -> list[str]:
    """Return a line for every other run whose router peers refute."""
    mine = status.run.id if status.run else ""
    return [
        f"router of {offer.name} ({offer.id[:8]}), by {offer.refuted} peers"
        for offer in status.offers
        if offer.refuted and offer.id != mine
    ]


def _task(status: Status) -> str:
    task = status.task
    if task is None:
        return ""
    loss = f"  loss {task.loss:.3f}" if task.loss is not None else ""
    speed = f"  {task.tokens_per_second:.0f} tok/s" if task.tokens_per_second else ""
    return (
        f"{task.kind} path {task.path} round {task.round}: {task.stage} "
        f"{task.done} of {task.total or '?'}{speed}{loss}"
    )


def _network(status: Status) -> str:
    net = status.network
    addresses = "  ".join(net.listen) or "no address"
    moved = f"{_mb(net.sent)} sent, {_mb(net.received)} received"
    return f"{net.peers} peers, {moved}  {addresses}"


def _cache(status: Status) -> str:
    cache = status.cache
    if cache.measured is None:
        return f"not measured yet, at most {_mb(cache.max)}, {cache.shards} shards"
    return f"{_mb(cache.bytes)} of {_mb(cache.max)}, {cache.shards} shards"


def _totals(status: Status) -> str:
    totals = status.totals
    return (
        f"{totals.accepted} accepted, {totals.refused} refused, {totals.tokens} tokens "
        f"in {totals.seconds:.0f} s"
    )


def _swarm(status: Status) -> list[str]:
    lines = []
    for path in status.swarm:
        loss = f"  loss {path.loss:.3f}" if path.loss is not None else ""
        held = f"  {path.holder}" if path.holder else ""
        experts = ",".join(map(str, path.experts))
        lines.append(f"({experts})  round {path.round}  {path.state}{loss}{held}")
    return lines
