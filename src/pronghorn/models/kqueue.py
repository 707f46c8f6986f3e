"""One process, one thread, any number of connections: kqueue, which macOS and the BSDs have, says which are ready.

It costs what epoll costs: a few hundred bytes per idle connection and nothing per turn for those that are silent. What
poll could not do: the kernel keeps the set between two waits; reading and writing are two filters of it (kqueue(2)).
"""

from __future__ import annotations

import select
from typing import Any

from pronghorn.connection.interfaces import Watchable
from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.serving.event_loop import Turns


def serve(context: Context) -> None:
    calls: Any = select  # type information has these names on such systems only
    turns = Turns(context)
    kqueue = calls.kqueue()
    things: dict[int, Watchable] = {}
    watched: set[tuple[int, int]] = set()
    while turns.next():
        for thing in turns.changes():
            fd = thing.fileno()
            changes = []
            for filter, wanted in (
                (calls.KQ_FILTER_READ, thing.wants_read),
                (calls.KQ_FILTER_WRITE, thing.wants_write),
            ):
                if wanted and (fd, filter) not in watched:
                    watched.add((fd, filter))
                    changes.append(calls.kevent(fd, filter, calls.KQ_EV_ADD))
                elif not wanted and (fd, filter) in watched:
                    watched.discard((fd, filter))
                    changes.append(calls.kevent(fd, filter, calls.KQ_EV_DELETE))
            try:
                kqueue.control(changes, 0)
            except OSError as error:  # somebody has closed it
                thing.cut(error)
            things[fd] = thing
            if not (thing.wants_read or thing.wants_write):
                del things[fd]
        for event in kqueue.control(None, 256, turns.timeout()):
            ready = things.get(event.ident)
            if ready is not None and event.filter == calls.KQ_FILTER_READ:
                ready.on_readable()
            elif ready is not None:
                ready.on_writable()
    kqueue.close()


def missing() -> str | None:
    return None if hasattr(select, "kqueue") else "kqueue is a call of macOS and the BSDs; choose epoll or poll"


MODEL = Model(
    name="kqueue",
    serve=serve,
    purpose="What epoll is for, on macOS and the BSDs.",
    cost="A handler that computes for long holds up all others.",
    loop="KqueueSelector",
    missing=missing,
)
