"""One process, one thread, any number of connections: epoll says which of them have something to do.

It costs a few hundred bytes per idle connection, and nothing per turn for those that are silent. What poll could not
do: the kernel keeps the set of descriptors between two waits, and is told only when a wish changes (epoll(7)).
"""

from __future__ import annotations

import select
from typing import Any

from pronghorn.models.base import Context, Model, by_descriptors
from pronghorn.models.turns import Turns


def serve(context: Context) -> None:
    turns = Turns(context)
    epoll = select.epoll()
    things: dict[int, Any] = {}
    while turns.next():
        for thing in turns.changes():
            fd = thing.fileno()
            events = select.EPOLLIN * thing.wants_read | select.EPOLLOUT * thing.wants_write
            if not events:  # out of the set altogether: epoll reports a hang-up even to those who asked for nothing
                if things.pop(fd, None) is not None:
                    epoll.unregister(fd)
            elif fd in things:
                epoll.modify(fd, events)
            else:
                try:
                    epoll.register(fd, events)
                    things[fd] = thing
                except OSError as error:  # the system watches no more than so many
                    thing.cut(error)
        for fd, events in epoll.poll(turns.timeout()):
            thing = things[fd]
            if events & ~select.EPOLLOUT:
                thing.on_readable()
            if events & ~select.EPOLLIN:
                thing.on_writable()
    epoll.close()


def missing() -> str | None:
    return None if hasattr(select, "epoll") else "epoll is a call of Linux; choose kqueue or poll"


MODEL = Model(
    name="epoll",
    serve=serve,
    own_flow=False,
    purpose="Thousands of connections, most of them silent: the default for handlers that do not block.",
    cost="A handler that computes for long holds up all others.",
    capacity=by_descriptors,
    selector="EpollSelector",
    missing=missing,
)
