"""Events of one connection, from accept(2) to its end.

`listener` is the name of the listener that it came to; empty where the server has only one, without a name. `id` is the
connection's in the whole server: the process id of its worker, and its number there (`12411-37`). `listener_name` is
the name that there is, or the address.
"""

from __future__ import annotations

from pronghorn.events.base import Event


class ConnectionOpened(Event, frozen=True):
    """A connection was accepted. `number` counts them in its worker."""

    number: int
    peer: tuple[str, int] | str
    listener: str = ""
    id: str = ""


class ConnectionClosed(Event, frozen=True):
    """A connection has ended, for `reason` (an errors.End), after `seconds`; `detail` may say more of the
    reason: the deadline, or the error's class. `program` is how the program behind it ended (`exit status 1`), where
    there was one. `fields` are the handler's own (`conn.log`).

    `state` is what ended it and in which phase, in two letters (serving/end_states.py). `bytes_in` and `bytes_out` mean
    nothing unless they were `measured`. `first_byte` is after how many seconds the first byte was sent; None if none
    was, or if that is not known. `proxy` is the address of the proxy, if one spoke for the peer. `tls` is the version
    of TLS, and `sni` the name that the client asked for. `worker` is the worker's slot. A `probe` has ended without a
    byte from either side, and without a fault."""

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
    id: str = ""
    state: str = "--"
    measured: bool = True
    first_byte: float | None = None
    proxy: tuple[str, int] | str = ""
    tls: str = ""
    sni: str = ""
    worker: int = 0
    generation: int = 0
    probe: bool = False
    listener_name: str = ""


class ProxyHeaderUnread(Event, frozen=True):
    """A connection at `address` begins with a PROXY header of this `version`, which no `proxy_from` has asked for: the
    handler gets it as what the client says. Told once for each listener."""

    address: str
    peer: tuple[str, int] | str
    version: int
    listener: str = ""


class ConnectionRefused(Event, frozen=True):
    """A connection was accepted and closed unserved, because of `limit`; `detail` may say more of this one. `state` and
    `worker` are as those of ConnectionClosed."""

    peer: tuple[str, int] | str
    limit: str
    detail: str = ""
    listener: str = ""
    state: str = "PA"
    worker: int = 0
    generation: int = 0
    listener_name: str = ""


class HandshakeFailed(Event, frozen=True):
    """A client did not get through the TLS handshake; its connection is closed before any handler saw it."""

    number: int
    peer: tuple[str, int] | str
    why: str
    listener: str = ""
    id: str = ""


class HandlerFailed(Event, frozen=True):
    """The handler raised; its connection is closed and no other is touched."""

    number: int
    peer: tuple[str, int] | str
    error: BaseException
    listener: str = ""
    id: str = ""


class PeerFailed(Event, frozen=True):
    """The peer broke a rule or the connection; its connection is closed and nothing else is touched."""

    number: int
    peer: tuple[str, int] | str
    error: BaseException
    listener: str = ""
    id: str = ""


class SlowMember(Event, frozen=True):
    """A connection does not read what the bus has for it: it is `closed`, or its oldest messages are dropped from now
    on (--bus-slow), of which only the first is told."""

    number: int
    peer: tuple[str, int] | str
    closed: bool
    listener: str = ""
    id: str = ""


class ChildDied(Event, frozen=True):
    """The process of one connection, under the fork model, ended without having closed it. `status` and `stack` are as
    those of a worker."""

    peer: tuple[str, int] | str
    pid: int
    status: int
    stack: str = ""
    listener: str = ""
    id: str = ""


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
    id: str = ""
