"""A process for every connection: accept, fork; the parent closes the connection, the child closes the listener.

It costs a process per connection, about a millisecond. The parent must reap its children, or each leaves a zombie:
SIGCHLD says that some have ended, one signal for any number of them, so it asks after every child it has. What
iterative could not do: serve many at once; and whatever a child breaks, it breaks for its own client only.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from typing import Any, NoReturn

from pronghorn.connection import Connection
from pronghorn.listener import Drain
from pronghorn.models.base import Context, Model
from pronghorn.models.flows import LEAVE, SWEEP, Flows
from pronghorn.settings import Settings

HELD = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}  # blocked around fork: one that comes between would be lost


def serve(context: Context) -> None:
    flows = Flows(context)
    children: set[int] = set()

    def look() -> None:
        reap(children)
        if context.drain.begun:
            send(children, signal.SIGTERM)  # also those of a queue that waits for room

    previous = signal.signal(signal.SIGCHLD, lambda *_: flows.wake.set())
    for conn in flows.accepted(lambda: len(children) < flows.settings.max_children, look):
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        try:
            pid = os.fork()
        except OSError as error:
            flows.refuse(conn, f"fork: {error.strerror}")
        else:
            if pid == 0:
                child(flows, conn)
            children.add(pid)
            flows.forget(conn)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    drain_children(context, children)
    signal.signal(signal.SIGCHLD, previous)


def child(flows: Flows, conn: Connection) -> NoReturn:
    """What the child does: let go of everything that is not its own, converse, leave."""
    context = flows.context
    ours: list[Any] = [*context.listeners, *context.watched, flows.wake, context.drain]
    for thing in ours:
        thing.close()
    begun = context.drain.begun
    context.drain = conn.drain = Drain(context.settings.drain_timeout)
    context.drain.close()  # nobody waits for it here, and the child keeps no descriptor but its connection
    flows.open.clear()
    flows.open[conn.number] = conn

    def drain(*_: object) -> None:
        if not context.drain:
            context.drain.begin("told by the worker")
            _thread.start_new_thread(flows.sweep, ())  # the handler has this one, perhaps in a blocking call

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, drain)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    if begun:
        drain()
    flows.converse(conn)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(0)


def reap(children: set[int]) -> None:
    """Ask after each child; those of others, such as a handler's own, are not ours to wait for."""
    for pid in list(children):
        try:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                children.discard(pid)
        except ChildProcessError:
            children.discard(pid)


def drain_children(context: Context, children: set[int]) -> None:
    """Tell every child that draining has begun, wait for them, and kill what is left at the drain deadline."""
    send(children, signal.SIGTERM)
    while children and time.monotonic() < context.drain.deadline:
        time.sleep(SWEEP)
        reap(children)
    context.cut += len(children)
    send(children, signal.SIGKILL)
    patience = time.monotonic() + LEAVE
    while children and time.monotonic() < patience:
        time.sleep(SWEEP / 10)
        reap(children)


def send(children: set[int], signum: int) -> None:
    for pid in children:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass


def capacity(settings: Settings, descriptors: int) -> tuple[int, str]:
    return settings.max_children, "--max-children"


MODEL = Model(
    name="fork",
    serve=serve,
    own_flow=True,
    purpose="Programs (--exec), and handlers that may crash, leak or change their process.",
    cost="A process per connection: about a millisecond to start, a few MB each.",
    capacity=capacity,
)
