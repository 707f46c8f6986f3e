"""A fixed number of threads, started before the first client comes; each accepts, converses, and accepts the next.

It costs the stacks of the pool and no more, however many clients come: when all threads are busy the others wait in
the kernel's queue. What thread could not do: stay within a bound that a database behind it can bear, and spare every
connection the start of a thread.
"""

from __future__ import annotations

from pronghorn.models.model import Model
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import Context
from pronghorn.serving.polls import Places
from pronghorn.system.process_exit import OwnThread


def serve(context: Context) -> None:
    flows = Flows(context)
    places = Places.made()

    def work() -> None:
        while True:
            flows.converse(places.next())

    for _ in range(flows.settings.pool_size):
        OwnThread(work).start()
    for conn in flows.accepted(room=lambda: len(flows.open) < flows.settings.pool_size, places=places):
        places.give(conn)  # where they may not accept for themselves: TLS, several listeners, a drain
    flows.finish()


MODEL = Model(
    name="pool",
    serve=serve,
    own_flow=True,
    purpose="Blocking handlers with something scarce behind them, such as database connections.",
    cost="Idle clients hold a thread each; when all are held, the next one waits.",
    capacity=lambda settings, descriptors: (min(settings.pool_size, descriptors), "--pool-size"),
)
