"""One process, one thread: poll is given the whole list of descriptors at every turn, and marks those that are ready.

It costs time in proportion to all connections, silent ones included, at every turn. What select could not do: a
descriptor may have any number (poll(2)).
"""

from __future__ import annotations

import select

from pronghorn.connection.interfaces import Watchable
from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.serving.event_loop import Turns


def serve(context: Context) -> None:
    turns = Turns(context)
    poll = select.poll()
    things: dict[int, Watchable] = {}
    while turns.next():
        for thing in turns.changes():
            fd = thing.fileno()
            events = select.POLLIN * thing.wants_read | select.POLLOUT * thing.wants_write
            if events:
                poll.register(fd, events)
                things[fd] = thing
            elif things.pop(fd, None) is not None:
                poll.unregister(fd)
        for fd, events in poll.poll(turns.timeout() * 1000):
            thing = things[fd]
            if events != select.POLLOUT:
                thing.on_readable()
            if events != select.POLLIN:
                thing.on_writable()


def missing() -> str | None:
    return None if hasattr(select, "poll") else "this system has no poll; choose select"


MODEL = Model(
    name="poll",
    serve=serve,
    purpose="Hundreds of connections, where neither epoll nor kqueue is there.",
    cost="Each turn costs time for every connection, silent ones included.",
    loop="PollSelector",
    missing=missing,
)
