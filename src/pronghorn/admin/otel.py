"""OpenTelemetry: the families as metrics of its data model, exported by its own OTLP exporter over HTTP.

Law: the SDK's OTEL_* variables say where to, how often and under which name. Sums are cumulative, as they stand on the
scoreboard: what could not be sent is made up for by the next time. An export runs in a thread of its own; one that
fails is logged by the SDK.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Sequence

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from pronghorn import __version__
from pronghorn.admin.catalogue import COUNTER, HISTOGRAM
from pronghorn.admin.families import Buckets, Family, Sample
from pronghorn.admin.gathering import Gatherer

INTERVAL = 60_000  # milliseconds: what the specification has
UNITS = {"_seconds": "s", "_bytes": "By"}
CUMULATIVE = AggregationTemporality.CUMULATIVE


def interval() -> float:
    """Seconds between two exports."""
    try:
        return max(0.1, float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "") or INTERVAL) / 1000)
    except ValueError:
        return INTERVAL / 1000


def disabled() -> bool:
    """Whether the environment switches OpenTelemetry off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def resource(name: str) -> Resource:
    """What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say; without a service's name that of the server."""
    found = Resource.create({"service.version": __version__})
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: name or "pronghorn"}))
    return found


def metrics_data(families: Iterable[Family], of: Resource, since: int, now: int) -> MetricsData:
    """The families as the SDK has them; instants in nanoseconds since 1970."""
    metrics = [_metric(each, since, now) for each in families]
    scope = InstrumentationScope("pronghorn", __version__)
    return MetricsData([ResourceMetrics(of, [ScopeMetrics(scope, metrics, "")], "")])


def _metric(family: Family, since: int, now: int) -> Metric:
    name = family.name.removesuffix("_total")
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "1")
    data: Gauge | Histogram | Sum
    if family.kind == HISTOGRAM:
        points = [
            _histogram(each.labels, each.value, since, now)
            for each in family.samples
            if isinstance(each.value, Buckets)
        ]
        data = Histogram(points, CUMULATIVE)
    elif family.kind == COUNTER:
        data = Sum(_numbers(family.samples, since, now), CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge(_numbers(family.samples, since, now))
    return Metric(name, family.help, unit, data)


def _numbers(samples: Sequence[Sample], since: int, now: int) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(dict(labels), since, now, value) for labels, value in samples if not isinstance(value, Buckets)
    ]


def _histogram(labels: tuple[tuple[str, str], ...], value: Buckets, since: int, now: int) -> HistogramDataPoint:
    counts, before = list[int](), 0
    for _, up_to in value.up_to:
        counts.append(up_to - before)
        before = up_to
    bounds = [bound for bound, _ in value.up_to[:-1]]
    largest = value.largest if value.values else 0.0
    return HistogramDataPoint(dict(labels), since, now, value.values, value.sum, counts, bounds, 0.0, largest)


class OpenTelemetry:
    """Exports, round after round."""

    def __init__(self, gatherer: Gatherer, name: str) -> None:
        self._gatherer = gatherer
        self._exporter = OTLPMetricExporter()
        self._resource = resource(name)
        self._since = time.time_ns()

    async def run(self) -> None:
        """Until it is cancelled; then `tell` once more."""
        while not disabled():
            await asyncio.sleep(interval())
            await self.tell()

    async def tell(self) -> None:
        """One export."""
        if not disabled():
            data = metrics_data(await self._gatherer.families(), self._resource, self._since, time.time_ns())
            await asyncio.to_thread(self._exporter.export, data)


if __name__ == "__main__":
    from pronghorn.admin.__main__ import main

    sys.exit(main(OpenTelemetry))
