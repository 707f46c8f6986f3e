"""One process, one thread, any number of connections: epoll says which of them have something to do.

It costs a few hundred bytes per idle connection, and nothing per turn for those that are silent. What poll could not
do: the kernel keeps the set of descriptors between two waits, and is told only when a wish changes (epoll(7)).
"""

from __future__ import annotations

import select

from pronghorn.connection.interfaces import Watchable
from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.serving.event_loop import Turns


def serve(context: Context) -> None:
    turns = Turns(context)
    epoll = select.epoll()
    things = turns.watched
    while turns.next():
        for thing in turns.changes():
            fd = thing.fileno()
            events = select.EPOLLIN * thing.wants_read | select.EPOLLOUT * thing.wants_write
            try:
                if fd in things and events:
                    epoll.modify(fd, events)
                elif events:
                    epoll.register(fd, events)
                    things[fd] = thing
                elif things.pop(fd, None):  # out of the set: epoll reports a hang-up even to who asked for nothing
                    epoll.unregister(fd)
            except OSError as error:  # the system watches no more than so many; or somebody has closed it
                turns.doubted |= not events
                thing.cut(error)
        if turns.doubted and turns.doubts_the_set():
            epoll = anew(epoll, things)
        for fd, events in epoll.poll(turns.timeout()):
            ready = things.get(fd, turns)  # of a descriptor that nobody here has, the turns take note
            if events != select.EPOLLOUT:
                ready.on_readable()
            if events != select.EPOLLIN:
                ready.on_writable()
    epoll.close()


def anew(epoll: select.epoll, things: dict[int, Watchable]) -> select.epoll:
    """A set without what was closed while a copy of it lives on elsewhere: of that the kernel goes on telling, under
    its old number, and it cannot be taken out (epoll(7), question 6)."""
    epoll.close()
    epoll = select.epoll()
    for fd, thing in things.items():
        try:
            epoll.register(fd, select.EPOLLIN * thing.wants_read | select.EPOLLOUT * thing.wants_write)
        except OSError as error:
            thing.cut(error)
    return epoll


def missing() -> str | None:
    return None if hasattr(select, "epoll") else "epoll is a call of Linux; choose kqueue or poll"


MODEL = Model(
    name="epoll",
    serve=serve,
    purpose="Thousands of connections, most of them silent: the default for handlers that do not block.",
    cost="A handler that computes for long holds up all others.",
    loop="EpollSelector",
    missing=missing,
)
