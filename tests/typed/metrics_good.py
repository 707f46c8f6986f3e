"""A handler's own metrics, as both checkers pass them."""

import pronghorn
from pronghorn.metrics import Counter, Gauge, Histogram

orders: Counter = pronghorn.metrics.counter("orders_total", "Orders.", labels=("kind",))
waiting: Gauge = pronghorn.metrics.gauge("orders_waiting", "Waiting orders.", across="max")
sizes: Histogram = pronghorn.metrics.histogram("order_lines", "Lines of an order.", buckets=(1, 5, 10))


@pronghorn.message(pronghorn.lines)
def take(line: bytes) -> bytes:
    orders.labels("new").inc()
    orders.labels(kind="new").inc(2)
    waiting.set(3.5)
    with sizes.time():
        sizes.observe(len(line))
    told: float = orders.labels("new").value + sizes.sum
    return b"%d" % told
