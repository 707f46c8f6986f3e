"""/metrics: families as Prometheus and OpenMetrics text, by prometheus-client; the Accept header says which.

Law: names, escapes and formats are the library's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from pronghorn.admin.catalogue import COUNTER
from pronghorn.admin.families import Buckets, Family


class Collected:
    """Families as prometheus-client asks a registry for them."""

    __slots__ = ("_families",)

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Each family, as the library has it."""
        for family in self._families:
            name = family.name.removesuffix("_total") if family.kind == COUNTER else family.name
            metric = Metric(name, family.help, family.kind)
            for labels, value in family.samples:
                if isinstance(value, Buckets):
                    for bound, count in value.up_to:
                        metric.add_sample(f"{name}_bucket", {**dict(labels), "le": _bound(bound)}, count)
                    metric.add_sample(f"{name}_count", dict(labels), value.values)
                    metric.add_sample(f"{name}_sum", dict(labels), value.sum)
                else:
                    metric.add_sample(family.name, dict(labels), value)
            yield metric


def _bound(value: float) -> str:
    return "+Inf" if value == math.inf else repr(float(value))


def page(families: Iterable[Family], accept: str = "") -> tuple[bytes, str]:
    """The page, and its content type; `accept` is the header of the request."""
    encoder: Any
    encoder, content_type = choose_encoder(accept)
    return encoder(Collected(families)), content_type
