"""A second flow of control, for models whose only one may be held by a handler.

Law: it never serves. It hears what the supervisor says, lets go of the listeners, keeps the deadlines, ends the
conversation when draining has begun, and beats in the name of the flow that serves: but only while that one waits for
its client, so that a handler that computes for ever is found out.
"""

from __future__ import annotations

import select
import threading
import time
from typing import Any

from pronghorn.connection import SeenConnection
from pronghorn.models.base import BEAT
from pronghorn.models.flows import SWEEP, Flows
from pronghorn.scoreboard_page import DRAINING


def attend(flows: Flows) -> None:
    """Start it, before the first connection is accepted."""
    flows.context.connection_class = SeenConnection
    watched, flows.watched = flows.watched, {}
    threading.Thread(target=_attend, args=(flows, watched), daemon=True, name="attendant").start()


def _attend(flows: Flows, watched: dict[int, Any]) -> None:
    drain = flows.context.drain
    poller = select.poll()
    for fd in (drain.fileno(), *watched):
        poller.register(fd, select.POLLIN)
    while not drain:
        for fd, _ in poller.poll(min(BEAT, flows.timeouts.wait(time.monotonic())) * 1000):
            if fd in watched:
                watched[fd].on_readable()
        if drain.lets_go and not drain:
            flows.let_go_beside()
        _look(flows)
    flows.context.page.state = DRAINING  # the flow that serves may find out late
    flows.sweep(lambda: _look(flows))  # also when the deadline has passed before we had our turn
    while time.monotonic() < drain.deadline:
        time.sleep(SWEEP)
        flows.sweep(lambda: _look(flows))
    flows.await_flows()
    if flows.open:  # a handler that nothing moves: the supervisor will kill it, and us with it
        flows.context.finish()


def _look(flows: Flows) -> None:
    flows.context.turns()
    # A handler that took the socket away, to wrap it in TLS for one, cannot be seen waiting: it is trusted.
    taken = any(conn.fileno() < 0 for conn in list(flows.open.values()))
    if SeenConnection.waits.look() or taken:
        flows.tick()
    else:
        flows.keep_deadlines(time.monotonic())
