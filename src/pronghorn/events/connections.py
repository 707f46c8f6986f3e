"""Events of one connection, from accept(2) to its end.

`listener` is the name of the listener that it came to; empty where the server has only one, without a name.
"""

from __future__ import annotations

from pronghorn.events.base import Event


class ConnectionOpened(Event, frozen=True):
    """A connection was accepted. `number` counts them in its worker."""

    number: int
    peer: tuple[str, int] | str
    listener: str = ""


class ConnectionClosed(Event, frozen=True):
    """A connection has ended, for `reason` (an errors.End), after `seconds`; `detail` may say more of the
    reason: the deadline, or the error's class. `program` is how the program behind it ended (`exit status 1`), where
    there was one. `fields` are the handler's own (`conn.log`)."""

    number: int
    peer: tuple[str, int] | str
    reason: str
    seconds: float
    bytes_in: int
    bytes_out: int
    messages: int
    program: str = ""
    detail: str = ""
    listener: str = ""
    fields: tuple[tuple[str, str], ...] = ()


class ConnectionRefused(Event, frozen=True):
    """A connection was accepted and closed unserved, because of `limit`; `detail` may say more of this one."""

    peer: tuple[str, int] | str
    limit: str
    detail: str = ""
    listener: str = ""


class HandshakeFailed(Event, frozen=True):
    """A client did not get through the TLS handshake; its connection is closed before any handler saw it."""

    number: int
    peer: tuple[str, int] | str
    why: str
    listener: str = ""


class HandlerFailed(Event, frozen=True):
    """The handler raised; its connection is closed and no other is touched."""

    number: int
    peer: tuple[str, int] | str
    error: BaseException
    listener: str = ""


class PeerFailed(Event, frozen=True):
    """The peer broke a rule or the connection; its connection is closed and nothing else is touched."""

    number: int
    peer: tuple[str, int] | str
    error: BaseException
    listener: str = ""


class ChildDied(Event, frozen=True):
    """The process of one connection, under the fork model, ended without having closed it. `status` and `stack` are as
    those of a worker."""

    peer: tuple[str, int] | str
    pid: int
    status: int
    stack: str = ""
    listener: str = ""


class ConnectionNotTaken(Event, frozen=True):
    """A connection that an old worker has offered could not be taken, because the handler raised `error` over its
    state: the old worker goes on with it."""

    peer: tuple[str, int] | str
    error: BaseException


class ConnectionTakenOver(Event, frozen=True):
    """A connection goes on in this worker, where it has this `number`; `before` names the worker that had it, and its
    number there."""

    number: int
    peer: tuple[str, int] | str
    before: str
    listener: str = ""
