"""A second flow of control for models whose only one also runs the handler: it writes the heartbeat and keeps time.

Law: the second flow never serves. It reads the supervisor's messages, lets go of the listeners, keeps the deadlines,
and ends the conversation when draining has begun. It writes the heartbeat only while the serving flow waits for its
client, so that a handler that computes for ever is noticed.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pronghorn.connection.blocking import Connection, T, Waits
from pronghorn.scoreboard.row import DRAINING
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import BEAT, Context
from pronghorn.serving.conversations import SWEEP


def attended(context: Context) -> Flows:
    """The flow of control that accepts and converses; the second one is started, and watches from now on."""
    flows = Flows(context, SeenConnection, watched=(), by_turns=True)
    context.count_alone()
    threading.Thread(target=_attend, args=(flows,), daemon=True, name="attendant").start()
    return flows


def _attend(flows: Flows) -> None:
    drain, watched = flows.context.drain, {thing.fileno(): thing for thing in flows.context.watched}
    poller = select.poll()
    for fd in (drain.fileno(), *watched):
        poller.register(fd, select.POLLIN)
    while not drain:
        for fd, _ in poller.poll(min(BEAT, flows.wait(time.monotonic())) * 1000):
            if fd in watched:
                watched[fd].on_readable()
        if drain.lets_go and not drain:
            flows.let_go_beside()
        _look(flows)
    flows.context.row.state = DRAINING  # the flow that serves may find out late

    def look() -> None:
        _look(flows)
        for fd, _ in poller.poll(0):
            if fd in watched:
                watched[fd].on_readable()

    flows.sweep(look)  # also when the deadline has passed before this thread had its turn
    while time.monotonic() < drain.deadline:
        time.sleep(SWEEP)
        flows.sweep(look)
    flows.await_flows()
    if flows.open:  # a handler that nothing moves: the supervisor will kill this process
        flows.context.finish()


def _look(flows: Flows) -> None:
    flows.context.turns()
    # A handler that took the socket away, to wrap it in TLS for one, cannot be seen waiting: it is trusted.
    taken = any(conn.fileno() < 0 for conn in list(flows.open.values()))
    if SeenConnection.waits.look() or taken:
        flows.tick()
    else:
        flows.keep_deadlines(time.monotonic())
        if not flows.context.drain.begun:
            flows.say_goodbyes(time.monotonic())


class SeenWaits(Waits):
    """The same on a flow of control that another one watches."""

    watched = True

    def __init__(self) -> None:
        self.flows: set[int] = set()  # that wait now
        self._signs = False

    def call(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        me = threading.get_ident()
        self.flows.add(me)
        try:
            return call(*args, **kwargs)
        finally:
            self.flows.discard(me)

    def sign(self) -> None:
        self._signs = True

    def look(self) -> bool:
        """Whether a flow waits for its client now, or has given a sign since the last look."""
        signs, self._signs = self._signs, False
        return signs or bool(self.flows)


def _seen(call: Callable[..., Any]) -> Callable[..., Any]:
    def wait(conn: SeenConnection, *args: Any, **kwargs: Any) -> Any:
        flows, me = conn.waits.flows, threading.get_ident()  # as SeenWaits.call, without one more call for each message
        flows.add(me)
        try:
            return call(conn, *args, **kwargs)
        finally:
            flows.discard(me)

    return wait


class SeenConnection(Connection):
    """A connection whose waits can be seen from another flow of control. It is a blocking socket as before: nothing
    wakes it."""

    __slots__ = ()
    waits: SeenWaits = SeenWaits()
    recv = _seen(socket.socket.recv)
    recv_into = _seen(socket.socket.recv_into)
    recvfrom = _seen(socket.socket.recvfrom)
    recvfrom_into = _seen(socket.socket.recvfrom_into)
    recvmsg = _seen(socket.socket.recvmsg)
    recvmsg_into = _seen(socket.socket.recvmsg_into)
    send = _seen(socket.socket.send)
    sendall = _seen(socket.socket.sendall)
    sendmsg = _seen(socket.socket.sendmsg)
    sendfile = _seen(socket.socket.sendfile)
