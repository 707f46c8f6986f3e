"""A thread for every connection: accept, have a thread converse, accept the next.

It costs a stack per connection and the interpreter's lock between all of them. What fork could not do: all connections
share one memory, and serving one more costs microseconds: a thread that is done waits a moment for the next.
"""

from __future__ import annotations

from pronghorn.models.model import Model
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import Context
from pronghorn.serving.threads import Threads


def serve(context: Context) -> None:
    threads = Threads(flows := Flows(context))
    for conn in flows.accepted(room=lambda: len(flows.open) < flows.settings.max_threads):
        try:
            threads.hold(conn)
        except RuntimeError as error:  # can't start new thread
            flows.refuse(conn, str(error))
    flows.finish()


MODEL = Model(
    name="thread",
    serve=serve,
    own_flow=True,
    purpose="Blocking handlers; hundreds of conversations that mostly wait.",
    cost="A thread per connection, about 24 KB each; one interpreter lock.",
    capacity=lambda settings, descriptors: (min(settings.max_threads, descriptors), "--max-threads"),
)
