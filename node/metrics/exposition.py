"""A status as the text that Prometheus reads."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dipaco.node.metrics.families import METRICS
from dipaco.node.status.document import Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class StatusCollector(Collector):
    """Gives the metrics of one status to a registry."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield every metric that has a value now."""
        for metric in METRICS:
            of_kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = of_kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.read(self._status):
                family.add_metric(labels, value)
            if family.samples:
                yield family


def exposition(status: Status) -> bytes:
    """Return the text of all metrics; the registry is of this text alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    return generate_latest(registry)
