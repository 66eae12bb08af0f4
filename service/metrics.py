"""Prometheus metrics. Label sets are closed: models that are loaded, routes that exist, words of this file."""

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and nobody plots them

RELOADS = ("loaded", "changed", "refused", "retired")
"""What can become of a version or an ensemble when the repository is looked at."""

_VIEWS = (1, 2, 4, 8, 16, 32, 64, 128)

_FAILURE = {
    "cancelled": "CANCELED",
    "overloaded": "REJECTED",
    "rate_limited": "REJECTED",
    "deadline_exceeded": "REJECTED",
    "inference_failed": "BACKEND",
}
"""Triton's reason for each of our codes; OTHER for the rest."""
_REASONS = ("OTHER", "CANCELED", "BACKEND", "REJECTED")

_TRITON = {
    "nv_inference_request_success": "Number of successful inference requests, all batch sizes",
    "nv_inference_request_failure": "Number of failed inference requests, all batch sizes",
    "nv_inference_count": "Number of views inferred",
    "nv_inference_exec_count": "Number of batches executed on the device",
    "nv_inference_request_duration_us": "Cumulative inference request duration in microseconds",
    "nv_inference_queue_duration_us": "Cumulative queuing duration in microseconds",
    "nv_inference_compute_input_duration_us": "Cumulative duration of decoding and drawing views in microseconds",
    "nv_inference_compute_infer_duration_us": "Cumulative duration of inference on the device in microseconds",
    "nv_inference_compute_output_duration_us": "Cumulative duration of averaging in microseconds",
}


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
        self.refused = Counter(
            "multicrop_http_refused",
            "Connections refused before a request was whole.",
            ["code"],
            registry=self.registry,
        )
        self.bytes_in_flight = Gauge(
            "multicrop_bytes_in_flight", "Bytes of request bodies that are held or announced.", registry=self.registry
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
        self._reruns = Counter(
            "multicrop_reruns",
            "Runs of parts of a batch that failed, to find out which of its requests is at fault.",
            ["model"],
            registry=self.registry,
        )
        self._dropped = Counter(
            "multicrop_dropped_views",
            "Views that got no answer: queue_full, deadline, cancelled, failed.",
            ["model", "reason"],
            registry=self.registry,
        )
        self.triton = TritonMetrics()
        self.models = Gauge(
            "multicrop_model_ready", "1 for a version that serves, 0 for one refused.", ["model", "version"],
            registry=self.registry,
        )  # fmt: skip
        self.reloads = Counter(
            "multicrop_reloads", f"Versions and ensembles, by outcome: {', '.join(RELOADS)}.", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        for outcome in RELOADS:
            self.reloads.labels(outcome)

    def of(self, model: str, version: int | None = None) -> "ModelMetrics":
        """The part that one model's engine writes."""
        return ModelMetrics(self, model, version)


class ModelMetrics:
    """What the engine reports, in views and seconds; it knows nothing of names."""

    def __init__(self, metrics: Metrics, model: str, version: int | None) -> None:
        stage, dropped = metrics._stage, metrics._dropped  # noqa: SLF001 the two classes are one idea
        self._stages = {name: stage.labels(model, name) for name in ("decode", "queue", "compute")}
        reasons = ("queue_full", "deadline", "cancelled", "failed")
        self._dropped = {reason: dropped.labels(model, reason) for reason in reasons}
        self._batch = metrics._batch.labels(model)  # noqa: SLF001
        self._waiting = metrics._waiting.labels(model)  # noqa: SLF001
        self._cold = metrics._cold.labels(model)  # noqa: SLF001
        self._reruns = metrics._reruns.labels(model)  # noqa: SLF001
        self._reported = 0
        self._triton, self._names = metrics.triton, (model, version)
        self._triton.add(model, version)

    def stage(self, name: str, seconds: float) -> None:
        self._stages[name].observe(seconds)

    def batch(self, views: int) -> None:
        self._batch.observe(views)
        self._triton.executed(*self._names, views)

    def cold(self, views: int) -> None:
        self._cold.inc(views)

    def rerun(self) -> None:
        self._reruns.inc()

    def waiting(self, views: int) -> None:
        """Moves the gauge, which all versions of the model share, by what has changed here."""
        self._waiting.inc(views - self._reported)
        self._reported = views

    def dropped(self, reason: str, views: int) -> None:
        self._dropped[reason].inc(views)


class TritonMetrics:
    """Triton's counters under its own names, labels and units, so that dashboards made for it work.

    They are written as text here: prometheus_client calls every counter `…_total`, Triton none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str], dict[str, float]] = {}

    def add(self, model: str, version: int | None) -> None:
        """All series of a version begin at 0; `None` is the version of an ensemble."""
        with self._lock:
            self._of(model, version)

    def executed(self, model: str, version: int | None, views: int) -> None:
        """A batch ran on the device."""
        self._count(model, version, nv_inference_count=views, nv_inference_exec_count=1)

    def succeeded(
        self, model: str, version: int | None, total: float, queue: float, draw: float, compute: float, merge: float
    ) -> None:
        """A request was answered; what it took is in seconds here, and in microseconds there."""
        times = {"request": total, "queue": queue, "compute_input": draw, "compute_infer": compute}
        times["compute_output"] = merge
        spent = {f"nv_inference_{stage}_duration_us": 1e6 * seconds for stage, seconds in times.items()}
        self._count(model, version, nv_inference_request_success=1, **spent)

    def failed(self, model: str, version: int | None, code: str) -> None:
        """A request was refused, failed or left after its model was found."""
        self._count(model, version, **{_FAILURE.get(code, "OTHER"): 1})

    def text(self) -> str:
        """In the Prometheus text format."""
        with self._lock:
            series = {names: dict(counts) for names, counts in self._series.items()}
        lines = []
        for metric, help_ in _TRITON.items():
            lines += [f"# HELP {metric} {help_}", f"# TYPE {metric} counter"]
            for (model, version), counts in series.items():
                found = {"": metric}
                if metric == "nv_inference_request_failure":
                    found = {f',reason="{reason}"': reason for reason in _REASONS}
                lines += [
                    f'{metric}{{model="{model}"{label},version="{version}"}} {round(counts[key])}'
                    for label, key in found.items()
                ]
        return "\n".join(lines) + "\n"

    def _count(self, model: str, version: int | None, **more: float) -> None:
        with self._lock:
            counts = self._of(model, version)
            for name, value in more.items():
                counts[name] += value

    def _of(self, model: str, version: int | None) -> dict[str, float]:
        names = (model, "ensemble" if version is None else str(version))
        return self._series.setdefault(names, dict.fromkeys([*_TRITON, *_REASONS], 0.0))
