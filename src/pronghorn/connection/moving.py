"""A channel on its way to another process: what is written down of it, how it holds still, leaves, and begins anew.

Law: no descriptor is passed here, and nothing decided. Between `hold_still` and `go_on` or `leave` no loop watches the
channel, and nothing is read or sent. Whatever would change it meanwhile (a handler's timer writes, a deadline cuts)
first asks its holder to have it back: so nothing is written that only one of two processes knows of. A channel that
holds still, or has left, is of another class; a channel that never moves pays nothing for this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from pronghorn.bus.joined import JOINED
from pronghorn.connection.base import AnyConnection, fields_as_text
from pronghorn.connection.channel import BURST, CLOSED, OPEN, OPENING, AnyChannel
from pronghorn.connection.closing import let_go
from pronghorn.connection.interfaces import Cancellable, Loop, Watchable
from pronghorn.connection.proxy_protocol import ProxyHeader
from pronghorn.connection.quiet import so_far
from pronghorn.connection.socket_facts import Seen
from pronghorn.connection.states import moved
from pronghorn.errors import MOVED
from pronghorn.peers import Peer

SEEN = tuple(sorted(Seen.__slots__))


class Facts(msgspec.Struct, array_like=True, frozen=True):
    """A connection as another process needs to know it; instants are of the monotonic clock, which all share."""

    number: int
    """In the process that it leaves."""
    listener: str
    peer: Peer
    proxy: ProxyHeader | None
    opened: float
    still_since: float
    """When it was last read: the pause that its client may notice began then."""
    bytes_in: int
    bytes_out: int
    unsent: bytes
    paused: bool
    throttled: bool
    stays: bool
    low: int
    high: int
    seen: list[float] | None
    """What passes over the open connections have noted, in the order of SEEN: so its deadlines run on."""
    first_sent: float = 0.0
    fields: dict[str, str] = {}
    """What its handler has put into `log`."""
    joined: list[bytes] = []
    """The names of the bus that it has joined."""


class Holder(Loop, Protocol):
    """Who has a channel that holds still."""

    def have_back(self, channel: AnyChannel, /) -> bool:
        """Whether the channel is this process's still, and goes on here, now; false if it has left."""


def refusal(channel: AnyChannel) -> str:
    """Why a channel cannot move now; empty if it can."""
    if channel.tls is not None:
        return "TLS"
    if channel.state is not OPEN or channel.ended or channel.wrote_eof or channel.goodbye:
        return "it is about to end"
    return ""


def facts_of(channel: AnyChannel) -> Facts:
    """What is written down of a channel that holds still."""
    seen = so_far(channel)
    return Facts(
        channel.number,
        channel.listener,
        channel.peer,
        channel.proxy,
        channel.opened,
        time.monotonic(),
        channel.bytes_in,
        channel.bytes_out,
        bytes(channel._backlog or b""),
        channel._paused,
        channel._throttled,
        channel.stays,
        channel._low,
        channel._high,
        [getattr(seen, name) for name in SEEN],
        channel.first_sent,
        dict(fields_as_text(channel.own_fields)),
        [*JOINED[channel.number].names] if channel.number in JOINED else [],
    )


# In the process that it leaves.


def hold_still(channel: AnyChannel, holder: Holder) -> None:
    """Have no loop watch the channel. Only between two batches of events."""
    channel.wants_read = channel.wants_write = False
    channel.loop.changed(channel)
    channel.loop = holder
    channel.__class__ = _mixed(_Still, type(channel))


def go_on(channel: AnyChannel, loop: Loop) -> None:
    """The channel stays here, as it was."""
    channel.__class__, channel.loop = _plain(channel), loop
    channel._wish()


def leave(channel: AnyChannel, loop: Loop) -> None:
    """Another process has the connection: the channel is CLOSED, and its protocol hears nothing of it. What is written
    to it from now on is dropped, as for every closed channel."""
    channel.__class__, channel.loop = _mixed(_Left, _plain(channel)), loop
    channel.state, channel._backlog = moved(channel.state, CLOSED), None
    channel._dead = channel._lost = True
    loop.changed(channel)


# In the process that takes it.


def restore(channel: AnyChannel, facts: Facts) -> None:
    """Make a new channel what the other one was. Until `begin` it is OPENING, and what is written to it waits."""
    channel.loop = Nowhere()
    channel.opened, channel.stays = facts.opened, facts.stays
    channel.bytes_in, channel.bytes_out, channel.first_sent = facts.bytes_in, facts.bytes_out, facts.first_sent
    channel._asked = facts.bytes_out
    channel._name = None  # a listener of this name may have had another address
    channel.own_fields = {**facts.fields} or None
    channel._paused, channel._throttled = facts.paused, facts.throttled
    channel._low, channel._high = facts.low, facts.high
    channel._backlog = bytearray(facts.unsent)
    if facts.seen is not None:
        channel.seen = Seen(facts.opened)
        for name, value in zip(SEEN, facts.seen, strict=True):
            setattr(channel.seen, name, value)


def begin(channel: AnyChannel, loop: Loop) -> None:
    """The connection is this process's: read and send again."""
    nowhere, channel.loop = channel.loop, loop
    if channel.state is OPENING:
        channel.state = moved(channel.state, OPEN)
    channel._burst = channel.bytes_out + BURST
    channel.on_writable()
    channel._wish()
    loop.changed(channel)
    if isinstance(nowhere, Nowhere):
        nowhere.pass_on(loop)


def forget(channel: AnyChannel) -> None:
    """The connection is another process's after all: close this process's descriptor of it, and leave what has been
    joined here for it, and nothing else."""
    if channel.number in JOINED:
        JOINED[channel.number].end()
    channel._dead = channel._lost = True
    channel.state, channel._backlog = moved(channel.state, CLOSED), None
    _close(channel)


class _Later:
    """A call that waits for its loop, and then for its time."""

    __slots__ = ("_callback", "_due", "_handle")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self._due = due
        self._callback: Callable[[], object] | None = callback
        self._handle: Cancellable | None = None

    def begin(self, loop: Loop) -> None:
        if self._callback is not None:
            self._handle = loop.call_later(max(0.0, self._due - time.monotonic()), self._callback)

    def cancel(self) -> None:
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()


class Nowhere:
    """The loop of a channel that is not this process's yet: what is asked of it waits for the loop to come."""

    def __init__(self) -> None:
        self._later: list[_Later] = []
        self._asked: list[Callable[[Loop], object]] = []

    def pass_on(self, loop: Loop) -> None:
        """Ask the loop."""
        for each in self._later:
            each.begin(loop)
        for ask in self._asked:
            ask(loop)

    tls_starts: Any = None

    def changed(self, thing: Watchable) -> None:
        pass

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Later:
        self._later.append(_Later(time.monotonic() + delay, callback))
        return self._later[-1]

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self._asked.append(lambda loop: loop.call_soon_threadsafe(callback))

    def keep_idle(self, conn: AnyConnection, seconds: float) -> None:
        self._asked.append(lambda loop: loop.keep_idle(conn, seconds))

    def failed(self, conn: object, error: BaseException) -> None:
        raise error


def _close(channel: AnyChannel) -> None:
    channel.keep_sockname()
    if channel.is_own():
        let_go(channel.sock)
    else:
        channel.sock.detach()
    channel._fd = -1


class _Still:
    """A channel that holds still: each of these calls has it back first, and does nothing if it has left."""

    __slots__ = ()
    loop: Any


def _first_have_back(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **more: Any) -> Any:
        return getattr(self, name)(*args, **more) if self.loop.have_back(self) else None

    return call


for _name in (
    "_call abort check_tls close cut lose on_readable on_writable pause_reading read_out resume_reading set_protocol "
    "set_write_buffer_limits start_tls stay write write_eof writelines"
).split():
    setattr(_Still, _name, _first_have_back(_name))


class _Left:
    """A channel whose connection another process has."""

    __slots__ = ()
    reason = MOVED

    def release(self: Any, proven: bool = False) -> None:
        """Close this process's descriptor, and leave the connection alone."""
        _close(self)


_made: dict[tuple[type, type], type] = {}


def _mixed(mixin: type, plain: type) -> Any:
    """The class of such channels, made once: its objects are laid out as those of the plain one."""
    if (mixin, plain) not in _made:
        _made[mixin, plain] = type(f"{mixin.__name__[1:]}{plain.__name__}", (mixin, plain), {"__slots__": ()})
    return _made[mixin, plain]


def _plain(channel: AnyChannel) -> Any:
    """What class it was."""
    return next(each for each in type(channel).__mro__ if not issubclass(each, (_Still, _Left)))
