"""One connection after the other: accept, converse to the end, accept the next.

The oldest server there is (UNP, chapter 1), and the only one whose every step can be read in one line. A second client
waits in the kernel's queue until the first has left, however idle the first may be.
"""

from __future__ import annotations

from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.serving.heartbeat import attended


def serve(context: Context) -> None:
    flows, limits = attended(context), context.process_limits()
    for conn in flows.accepted():
        with limits:
            flows.converse(conn)


MODEL = Model(
    name="iterative",
    serve=serve,
    own_flow=True,
    purpose="Learning; short conversations, one after the other.",
    cost="One idle client stops everybody else.",
    capacity=lambda *_: (1, "one at a time, others wait in the kernel's queue"),
)
