"""What the gateway counts, for Prometheus. Labels name models and routes, never tenants."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from serve.records import Call

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
AGENTS = "agent"


class Metrics:
    """One replica's counters, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST.encode()

    def __init__(self, spool_bytes: Callable[[], int], waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._calls = self._counter("calls", "Metered calls by outcome", "model", "kind", "status", "http_status")
        self._refused = self._counter("refused", "Requests answered before admission", "http_status")
        self._tokens = self._counter("tokens", "Tokens by bucket", "model", "bucket")
        self._resumed = self._counter("resumed_streams", "Streams that broke and went on, by how", "model", "how")
        self.masked = self._counter("masked", "Calls whose request had personal data masked", "action")
        self.prompts = self._counter("prompts", "Prompts that were to be kept", "outcome")
        self._first_token = self._histogram("first_token_seconds", "From the start to the first token")
        self._seconds = self._histogram("call_seconds", "Whole calls")
        self.cache = self._counter("cache", "Looks at the response cache, and answers for it, by outcome", "outcome")
        # Finding a label's child costs more than counting with it.
        self._outcomes: dict[tuple[str, str, str, int], Counter] = {}
        self._of_models: dict[str, tuple[Counter, Counter, Histogram, Histogram]] = {}
        self.in_flight = Gauge("objecta_gateway_in_flight", "Admitted calls that run", registry=self._registry)
        labels = ("upstream", "class")
        self._waiting = Gauge(
            "objecta_gateway_queued", "Calls that wait for an upstream", labels, registry=self._registry
        )
        self._waited = self._histogram("queued_seconds", "Waits for an upstream, of calls that had to wait", *labels)
        self._gauge("spool_bytes", "Usage events on disk, waiting for Redis").set_function(spool_bytes)
        self._gauge("events_waiting", "Usage events in memory").set_function(waiting)

    def settled(self, call: Call) -> None:
        """Count a call that ended."""
        model = AGENTS if call.kind == "agent" else call.model
        outcome = (model, call.kind, call.status, call.http_status)
        calls = self._outcomes.get(outcome)
        if calls is None:
            calls = self._outcomes[outcome] = self._calls.labels(*outcome)
        calls.inc()
        prompt, completion, first_token, seconds = self._of_models.get(model) or self._of(model)
        if call.replay is None:
            prompt.inc(call.usage.sent)
            completion.inc(call.usage.made)
        if call.first_token_ms is not None:
            first_token.observe(call.first_token_ms / 1_000)
        seconds.observe(call.elapsed_ms() / 1_000)

    def resumed(self, model: str, how: str) -> None:
        """Count a stream that broke and went on."""
        self._resumed.labels(model, how).inc()

    def _of(self, model: str) -> tuple[Counter, Counter, Histogram, Histogram]:
        found = self._of_models[model] = (
            self._tokens.labels(model, "prompt"),
            self._tokens.labels(model, "completion"),
            self._first_token.labels(model),
            self._seconds.labels(model),
        )
        return found

    def of_queue(self, upstream: str, rank: str) -> tuple[Gauge, Histogram]:
        """How many calls of a class wait for an upstream, and for how long those that did have waited."""
        return self._waiting.labels(upstream, rank), self._waited.labels(upstream, rank)

    def add(self, collector: Collector) -> None:
        """Expose what ``collector`` knows as well."""
        self._registry.register(collector)

    def refused(self, http_status: int) -> None:
        """Count a request that was answered with an error before its admission."""
        self._refused.labels(http_status).inc()

    def render(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"objecta_gateway_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        named = labels or ("model",)
        return Histogram(f"objecta_gateway_{name}", text, named, registry=self._registry, buckets=SECONDS)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"objecta_gateway_{name}", text, registry=self._registry)
