"""The metrics of a node, read from its status: names, units, labels. Source: docs/metrics.md.

Names follow Prometheus: base units at the end, `_total` for what only grows. Labels have few
values, and none is a text of a peer: a run is named by the beginning of its id.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from dipaco.node.status.document import PathState, RunBlock, Status
from dipaco.node.status.events import State

RUN_DIGITS: Final = 12  # of a run id: enough to tell the runs of one node apart
MAX_RUNS: Final = 16  # the busiest runs of a node that have metrics of their own

Values = Iterable[tuple[tuple[str, ...], float]]
"""The values of the labels, and the figure."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    """Without `_total`."""
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Status], Values]
    """Returns nothing while there is nothing to tell."""

    @property
    def sample(self) -> str:
        """The name in a query."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def gauge(
    name: str, help: str, read: Callable[[Status], float | None], *, kind: str = "gauge"
) -> Metric:
    """Return a metric without labels; it has no value while `read` returns None."""

    def values(status: Status) -> Values:
        found = read(status)
        return () if found is None else [((), found)]

    assert kind in ("counter", "gauge")
    return Metric(
        name=name, kind="counter" if kind == "counter" else "gauge", help=help, read=values
    )


def counter(name: str, help: str, read: Callable[[Status], float]) -> Metric:
    """Return a counter without labels."""
    return gauge(name, help, read, kind="counter")


def of_runs(name: str, help: str, read: Callable[[RunBlock], float | None]) -> Metric:
    """Return a metric of each run."""

    def values(status: Status) -> Values:
        found = [(run.id[:RUN_DIGITS], read(run)) for run in status.runs[:MAX_RUNS]]
        return [((run,), figure) for run, figure in found if figure is not None]

    return Metric(name=name, kind="gauge", help=help, labels=("run",), read=values)


def _states(status: Status) -> Values:
    return [((state,), float(state == status.state)) for state in get_args(State)]


def _reasons(status: Status) -> Values:
    held = status.reasons or (status.reason,)
    return [((code,), 1.0) for code in sorted({each.code for each in held})]


def _paths(status: Status) -> Values:
    for run in status.runs[:MAX_RUNS]:
        counted = Counter(path.state for path in run.swarm)
        for state in get_args(PathState):
            yield (run.id[:RUN_DIGITS], state), float(counted[state])


METRICS: Final = (
    Metric(
        name="dipaco_build_info",
        kind="gauge",
        help="1; the version of the program is its label.",
        labels=("version",),
        read=lambda status: [((status.version,), 1.0)],
    ),
    gauge("dipaco_uptime_seconds", "Seconds since the daemon's start.", lambda s: s.uptime_s),
    Metric(
        name="dipaco_state",
        kind="gauge",
        help="1 for the node's state, 0 for the others.",
        labels=("state",),
        read=_states,
    ),
    Metric(
        name="dipaco_reason",
        kind="gauge",
        help="1 for each reason that holds, by its code (docs/operation.md).",
        labels=("code",),
        read=_reasons,
    ),
    gauge("dipaco_peers", "Connected peers.", lambda s: s.network.peers),
    counter("dipaco_sent_bytes", "Bytes sent since the start.", lambda s: s.network.sent),
    counter(
        "dipaco_received_bytes", "Bytes received since the start.", lambda s: s.network.received
    ),
    Metric(
        name="dipaco_blob_received_bytes",
        kind="counter",
        help="Bytes of blobs received since the start, by kind.",
        labels=("kind",),
        read=lambda s: [((each.kind,), each.received) for each in s.network.blobs.kinds],
    ),
    Metric(
        name="dipaco_cap_bytes_per_second",
        kind="gauge",
        help="The cap on traffic; missing where there is none.",
        labels=("direction",),
        read=lambda s: [
            ((way,), cap)
            for way, cap in (("up", s.network.max_up), ("down", s.network.max_down))
            if cap
        ],
    ),
    gauge("dipaco_today_bytes", "Bytes of today, both ways.", lambda s: s.network.today),
    gauge(
        "dipaco_daily_quota_bytes",
        "Most bytes of a day; missing where there is no bound.",
        lambda s: s.network.daily_quota or None,
    ),
    Metric(
        name="dipaco_tasks",
        kind="counter",
        help="Tasks whose result was judged, since the first start of the home.",
        labels=("outcome",),
        read=lambda s: [(("accepted",), s.totals.accepted), (("refused",), s.totals.refused)],
    ),
    counter(
        "dipaco_trained_tokens",
        "Tokens of accepted tasks, since the first start of the home.",
        lambda s: s.totals.tokens,
    ),
    counter(
        "dipaco_training_seconds",
        "Time of the inner steps of accepted tasks, since the first start of the home.",
        lambda s: s.totals.seconds,
    ),
    Metric(
        name="dipaco_stage_seconds",
        kind="counter",
        help="Time spent in each kind of work since the start.",
        labels=("stage",),
        read=lambda s: [((each.stage,), each.seconds) for each in s.stages],
    ),
    gauge(
        "dipaco_task_tokens_per_second",
        "Tokens per second of the task in work; missing without one.",
        lambda s: s.task.tokens_per_second if s.task else None,
    ),
    gauge(
        "dipaco_task_loss_nats",
        "Training loss of the task in work, nats per token; missing without one.",
        lambda s: s.task.loss if s.task else None,
    ),
    gauge(
        "dipaco_device_temperature_celsius",
        "Temperature of the device while it works; missing where it is not read.",
        lambda s: s.device.celsius if s.device else None,
    ),
    of_runs("dipaco_run_round", "The current round of a run, from 1.", lambda run: run.round),
    of_runs("dipaco_run_rounds", "The rounds of a run.", lambda run: run.rounds),
    of_runs(
        "dipaco_run_records", "Records of a run's ledger that are here.", lambda run: run.records
    ),
    of_runs(
        "dipaco_run_router_verified",
        "1 if this node verified the run's router, else 0.",
        lambda run: float(run.verdict == "verified"),
    ),
    Metric(
        name="dipaco_run_paths",
        kind="gauge",
        help="Paths of a run, by state.",
        labels=("run", "state"),
        read=_paths,
    ),
    gauge(
        "dipaco_cache_bytes",
        "Bytes of blobs, shards and source files; missing before they were measured.",
        lambda s: None if s.cache.measured is None else s.cache.bytes,
    ),
    gauge("dipaco_cache_limit_bytes", "Bytes that these may grow to.", lambda s: s.cache.max),
    Metric(
        name="dipaco_resident_memory_bytes",
        kind="gauge",
        help="Main memory of the daemon and of its worker processes.",
        labels=("process",),
        read=lambda s: [(("daemon",), s.memory.daemon), (("worker",), s.memory.worker)],
    ),
)
"""All metrics, in the order of docs/metrics.md."""
