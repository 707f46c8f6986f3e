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
from typing import NoReturn

from pronghorn.connection import Connection
from pronghorn.listener import Peer
from pronghorn.models.base import Context, Model
from pronghorn.models.flows import LEAVE, SWEEP, Flows
from pronghorn.settings import Settings


def serve(context: Context) -> None:
    flows = Flows(context)
    shared = [each.fileno() for each in context.listeners] + [each.fileno() for each in context.watched]
    children: dict[int, Peer] = {}

    def look() -> None:
        reap(children)
        if context.drain.begun:
            send(children, signal.SIGTERM)  # also those of a queue that waits for room

    previous = signal.signal(signal.SIGCHLD, lambda *_: flows.wake.set())
    for conn in flows.accepted(lambda: len(children) < flows.settings.max_children, look):
        try:
            pid = os.fork()
        except OSError as error:
            flows.refuse(conn, f"fork: {error.strerror}")
            continue
        if pid == 0:
            child(flows, conn, shared)
        children[pid] = conn.peer
        flows.forget(conn)
    drain_children(context, children)
    signal.signal(signal.SIGCHLD, previous)


def child(flows: Flows, conn: Connection, shared: list[int]) -> NoReturn:
    """What the child does: let go of everything that is not its own, converse, leave.

    The parent's signal handlers stay, and do what is right here too: SIGTERM begins the drain, which now is this
    connection's, and SIGCHLD wakes nobody: to set others costs a child some thirty page faults.
    """
    drain = flows.context.drain
    drain.close()
    flows.wake.close()
    for fd in shared:
        os.close(fd)
    flows.open = flows.context.open = {conn.number: conn}
    # A flow of its own sees to the drain: the handler has this one, perhaps in a call that blocks.
    drain.then = lambda: _thread.start_new_thread(flows.sweep, ())
    if drain.begun:
        drain.then()
    flows.converse(conn)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(0)


def reap(children: dict[int, Peer]) -> None:
    """Ask after each child; those of others, such as a handler's own, are not ours to wait for."""
    for pid in list(children):
        try:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                children.pop(pid, None)
        except ChildProcessError:
            children.pop(pid, None)


def drain_children(context: Context, children: dict[int, Peer]) -> None:
    """Tell every child that draining has begun, wait for them, and kill what is left at the drain deadline."""
    rounds = 0
    while children and time.monotonic() < context.drain.deadline:
        if rounds % 10 == 0:  # once is not enough: Python forgets a signal that comes while it forks
            send(children, signal.SIGTERM)
        rounds += 1
        time.sleep(SWEEP)
        reap(children)
    for peer in children.values():
        context.note_cut(peer)
    send(children, signal.SIGKILL)
    patience = time.monotonic() + LEAVE
    while children and time.monotonic() < patience:
        time.sleep(SWEEP / 10)
        reap(children)


def send(children: dict[int, Peer], signum: int) -> None:
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
