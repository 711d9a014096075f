"""The server's metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)


class ServerMetrics:
    """The metrics of one server.

    Attributes:
      registry: The registry, for an exporter.
      requests: Requests by model, method, protocol and status (of gRPC).
      rows: Rows that got a prediction, by model and version.
      latency: Seconds from a request to its response, by model, method and protocol.
      waiting: Requests that wait for a worker or are being computed.
      versions: 1 for each version that is being served, by model, version and form.
      loads: Versions that were loaded or refused, by model and outcome.
      unauthenticated: Requests without a token that is known, by protocol and reason.
      traffic: Predictions of models with a traffic policy, by model, version, role (`champion`,
        `challenger`, `shadow`) and outcome (`OK`, `FAILED`, `NAN`, `TOO_SLOW`, `DROPPED`). An
        outcome of a challenger that is not OK got the champion's prediction.
      model_seconds: Seconds that the model took for these, by model, version and role.
      taken_out: 1 for each challenger that was taken out of the traffic, by model and version.
      logged: Rows written to the request log, and dropped where it could not keep up.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "flightdeck_serving_"
        self.requests = Counter(
            f"{prefix}requests",
            "Requests.",
            ["model", "method", "protocol", "status"],
            registry=self.registry,
        )
        self.rows = Counter(
            f"{prefix}rows", "Rows answered.", ["model", "version"], registry=self.registry
        )
        self.latency = Histogram(
            f"{prefix}latency_seconds",
            "Seconds from a request to its response.",
            ["model", "method", "protocol"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            f"{prefix}waiting_requests",
            "Requests that wait for a worker or are being computed.",
            registry=self.registry,
        )
        self.versions = Gauge(
            f"{prefix}serving_version",
            "1 for each version that is being served.",
            ["model", "version"],
            registry=self.registry,
        )
        self.loads = Counter(
            f"{prefix}loads",
            "Versions that were loaded or refused.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.unauthenticated = Counter(
            f"{prefix}unauthenticated",
            "Requests refused because their token is missing or wrong.",
            ["protocol", "reason"],
            registry=self.registry,
        )
        self.traffic = Counter(
            f"{prefix}traffic_predictions",
            "Predictions of models with a traffic policy.",
            ["model", "version", "role", "outcome"],
            registry=self.registry,
        )
        self.model_seconds = Histogram(
            f"{prefix}traffic_model_seconds",
            "Seconds that the model took, of models with a traffic policy.",
            ["model", "version", "role"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.taken_out = Gauge(
            f"{prefix}challenger_taken_out",
            "1 for each challenger that was taken out of the traffic.",
            ["model", "version"],
            registry=self.registry,
        )
        self.logged = Counter(
            f"{prefix}logged_rows",
            "Rows written to the request log, or dropped by it.",
            ["model", "outcome"],
            registry=self.registry,
        )
