"""Numbers for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from instructgpt.serving.catalog import Catalog
from instructgpt.serving.worker import Worker

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GAUGES = {
    "active": "Replies in a slot",
    "waiting": "Replies and scores that wait",
    "slots": "Replies that fit at a time",
}
_COUNTERS = {
    "drawn_tokens": ("Tokens drawn", "drawn"),
    "read_tokens": ("Tokens of prompts read", "read"),
    "paused": ("Times that a reply made room for another", "paused"),
}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What /metrics shows. Labels are paths of the API, status codes, names of models: a bounded number."""

    def __init__(self, catalog: Catalog, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(catalog, worker))
        self._requests = Counter(
            "instructgpt_requests", "Requests answered", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "instructgpt_request_seconds",
            "From a request to the end of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "instructgpt_first_token_seconds",
            "From a request to its first token",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; status 499: the client did not wait for it."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        """Note how long the first token took."""
        self._first.labels(model).observe(seconds)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """The engines' own numbers, read when the page is asked for. Names of one checkpoint share an engine,
    which is shown under the first of them."""

    def __init__(self, catalog: Catalog, worker: Worker) -> None:
        self._worker = worker
        names = {served.loaded: name for name, served in reversed(list(catalog.models.items()))}
        self._names = [names[loaded] for loaded in catalog.loaded]

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        rows = list(zip(self._names, self._worker.figures(), strict=True))
        for field, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"instructgpt_{field}", text, labels=["model"])
            for name, figures in rows:
                gauge.add_metric([name], getattr(figures, field))
            yield gauge
        for metric, (text, field) in _COUNTERS.items():
            counter = CounterMetricFamily(f"instructgpt_{metric}", text, labels=["model"])
            for name, figures in rows:
                counter.add_metric([name], getattr(figures, field))
            yield counter
