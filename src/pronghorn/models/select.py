"""One process, one thread: select is given three sets of descriptors at every turn, and leaves in them the ready ones.

It costs time in proportion to all connections at every turn, and its sets are bitmaps of FD_SETSIZE places: a client
whose descriptor would not fit is refused (select(2)). What the models before could not do: many clients, without a
process or a thread for each.
"""

from __future__ import annotations

import select

from pronghorn.connection.interfaces import Watchable
from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.serving.event_loop import Turns

FD_SETSIZE = 1024  # a constant of the C library, wherever Python runs


def serve(context: Context) -> None:
    turns = Turns(context)
    things: dict[int, Watchable] = {}
    while turns.next():
        for thing in turns.changes():
            if thing.wants_read or thing.wants_write:
                things[thing.fileno()] = thing
            else:
                things.pop(thing.fileno(), None)
        readers = [thing for thing in things.values() if thing.wants_read]
        writers = [thing for thing in things.values() if thing.wants_write]
        try:
            readable, writable, _ = select.select(readers, writers, [], turns.timeout())
        except OSError:  # EBADF: somebody has closed a descriptor
            if not turns.look_for_lost():
                raise
            continue
        for thing in readable:
            thing.on_readable()
        for thing in writable:
            thing.on_writable()


MODEL = Model(
    name="select",
    serve=serve,
    purpose="Learning; up to a thousand connections on any system.",
    cost="Each turn costs time for every connection; clients beyond FD_SETSIZE are refused.",
    capacity=lambda _, descriptors: (min(descriptors, FD_SETSIZE - 16), f"FD_SETSIZE, which is {FD_SETSIZE}"),
    descriptors=FD_SETSIZE,
    loop="SelectSelector",
)
