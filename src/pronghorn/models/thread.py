"""A thread for every connection: accept, start a thread that converses, accept the next.

It costs a stack per connection and the interpreter's lock between all of them. What fork could not do: all connections
share one memory, and starting to serve one costs microseconds instead of a process.
"""

from __future__ import annotations

from pronghorn.models.model import Model
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import Context
from pronghorn.system.process_exit import OwnThread


def serve(context: Context) -> None:
    flows = Flows(context)
    for conn in flows.accepted(room=lambda: len(flows.open) < flows.settings.max_threads):
        try:
            OwnThread(flows.hold, conn).start()
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
