"""What is known of the upstreams, for Prometheus: read when it is asked for, so that no call pays for it."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serve.circuit import State
from serve.upstreams import UpstreamClient

NUMBERS: Mapping[State, int] = {"closed": 0, "half_open": 1, "open": 2}


class UpstreamMetrics(Collector):
    """Of one replica's upstreams, by name."""

    def __init__(self, upstreams: Mapping[str, UpstreamClient]) -> None:
        self._upstreams = upstreams

    def collect(self) -> Iterator[Metric]:
        """The exposition's families."""
        circuit = GaugeMetricFamily(
            "objecta_gateway_circuit", "Of an upstream: 0 closed, 1 half open, 2 open", labels=["upstream"]
        )
        retries = CounterMetricFamily(
            "objecta_gateway_retries",
            "Calls that failed elsewhere, by what the budget said",
            labels=["upstream", "said"],
        )
        for name, upstream in self._upstreams.items():
            circuit.add_metric([name], NUMBERS[upstream.state])
            retries.add_metric([name, "sent"], upstream.retries.sent)
            retries.add_metric([name, "refused"], upstream.retries.refused)
        yield circuit
        yield retries
