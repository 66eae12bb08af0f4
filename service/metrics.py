"""Prometheus metrics. Label sets are closed: models that are loaded, routes that exist, words of this file."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and nobody plots them

_VIEWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One registry per application, so that two of them can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "multicrop_http_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "multicrop_http_request_seconds", "Time to the answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._stage = Histogram(
            "multicrop_stage_seconds",
            "Time of an image's views of one shape (and of one wave) in a stage: decode, queue, compute.",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram(
            "multicrop_batch_views", "Views in a device batch.", ["model"], buckets=_VIEWS, registry=self.registry
        )
        self._waiting = Gauge(
            "multicrop_queue_views", "Views that wait; larger ones are several.", ["model"], registry=self.registry
        )
        self._cold = Counter(
            "multicrop_cold_views",
            "Views of another size than the native one, run without warming.",
            ["model"],
            registry=self.registry,
        )
        self._dropped = Counter(
            "multicrop_dropped_views",
            "Views that got no answer: queue_full, deadline, cancelled, failed.",
            ["model", "reason"],
            registry=self.registry,
        )
        self.models = Gauge(
            "multicrop_model_ready", "1 for a version that serves, 0 for one refused.", ["model", "version"],
            registry=self.registry,
        )  # fmt: skip

    def of(self, model: str) -> "ModelMetrics":
        """The part that one model's engine writes."""
        return ModelMetrics(self, model)


class ModelMetrics:
    """What the engine reports, in views and seconds; it knows nothing of names."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        stage, dropped = metrics._stage, metrics._dropped  # noqa: SLF001 the two classes are one idea
        self._stages = {name: stage.labels(model, name) for name in ("decode", "queue", "compute")}
        reasons = ("queue_full", "deadline", "cancelled", "failed")
        self._dropped = {reason: dropped.labels(model, reason) for reason in reasons}
        self._batch = metrics._batch.labels(model)  # noqa: SLF001
        self._waiting = metrics._waiting.labels(model)  # noqa: SLF001
        self._cold = metrics._cold.labels(model)  # noqa: SLF001
        self._reported = 0

    def stage(self, name: str, seconds: float) -> None:
        self._stages[name].observe(seconds)

    def batch(self, views: int) -> None:
        self._batch.observe(views)

    def cold(self, views: int) -> None:
        self._cold.inc(views)

    def waiting(self, views: int) -> None:
        """Moves the gauge, which all versions of the model share, by what has changed here."""
        self._waiting.inc(views - self._reported)
        self._reported = views

    def dropped(self, reason: str, views: int) -> None:
        self._dropped[reason].inc(views)
