"""What both checkers refuse of a handler's own metrics: each statement with `# wrong`, and no other."""

import pronghorn

orders = pronghorn.metrics.counter("orders_total", "Orders.")
sizes = pronghorn.metrics.histogram("order_lines", "Lines.", buckets=("1", "5"))  # wrong: text
orders.dec()  # wrong: a counter only grows
orders.inc("1")  # wrong: text
sizes.observe(b"1")  # wrong: bytes
count: int = orders.labels("new").value  # wrong: a float
