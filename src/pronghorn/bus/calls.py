"""What handlers call of the bus: publish and ask, and join and leave for code that sees no connection object."""

from __future__ import annotations

import threading
from typing import Any

from pronghorn.bus.errors import BusError
from pronghorn.bus.joined import Exclusive
from pronghorn.bus.local import here
from pronghorn.bus.requests import PATIENCE, Name, Payload, To
from pronghorn.system.drain import connection_here


def publish(name: Name, payload: Payload, *, to: To = "all", timeout: float = PATIENCE) -> int:
    """Send a message to all connections that have joined `name`, or with `to="one"` to the one that has joined last,
    whichever worker has them. Returns how many have taken it: it is written to these, behind what they were sent
    before. 0: there is none. In a loop it holds up the loop until the hub has answered, a fraction of a millisecond as
    a rule; `apublish` does not.

    Raises BusUnavailable if the hub cannot be asked within `timeout` seconds, and nothing was sent; BusLost if it does
    not say within them what became of the message, or went away meanwhile; OtherHostsUnreached if the broker by which
    other hosts are reached is away; BadBusMessage for a name or a payload that is too long.
    """
    return here().publish(name, payload, to, timeout)


def ask(name: Name, payload: Payload, timeout: float = PATIENCE) -> bytes:
    """Ask the connection that has joined `name` last, and return what its handler's on_bus answers, within `timeout`
    seconds.

    Raises NobodyThere at once if there is none, NoAnswer when the time is over, CannotAnswer if its handler answers
    nothing, BusLost if the connection ended before; and as `publish` does. BusError on a loop's thread, where asking
    would hold up the connection that shall answer. TypeError, ValueError for a timeout that is none: more than 0, and
    an hour at most.
    """
    if hasattr(connection_here(), "loop") and threading.current_thread() is threading.main_thread():
        raise BusError(
            "ask() would hold up the loop that this handler runs on.",
            "A connection of this worker could not answer.",
            "Take aask() in a coroutine, or a model with a flow of control per connection, such as thread.",
        )
    return here().ask(name, payload, timeout)


async def apublish(name: Name, payload: Payload, *, to: To = "all", timeout: float = PATIENCE) -> int:
    """`publish` for coroutines: others run while it waits."""
    return await here().apublish(name, payload, to, timeout)


async def aask(name: Name, payload: Payload, timeout: float = PATIENCE) -> bytes:
    """`ask` for coroutines."""
    return await here().aask(name, payload, timeout)


def join(name: Name, *, exclusive: Exclusive = False) -> None:
    """Have the connection that the calling code serves join `name`: `conn.join(name)`, for code that sees no connection
    object. RuntimeError outside of a conversation."""
    conn = _conn("join")
    below = getattr(conn.protocol, "protocol", conn.protocol)  # of a transport that is driven over it
    getattr(below, "joins", conn.join)(name, exclusive=exclusive)


def leave(name: Name) -> None:
    """Have the connection that the calling code serves leave `name`. RuntimeError outside of a conversation."""
    _conn("leave").leave(name)


def _conn(what: str) -> Any:
    conn = connection_here()
    if conn is None:
        raise RuntimeError(f"pronghorn.bus.{what}() was called by code that serves no connection, or an ended one")
    return conn
