"""Connections as members of the bus: how a message that was published is written to each kind of them.

Law: imported when a connection joins its first name. A message is written between two replies, never in the middle of
one: on a loop, by the loop's own thread; on a flow of control of its own, under the lock that all who write there take.
Nobody who delivers waits for a peer: what it does not take at once is written by a thread that this connection has for
as long as that lasts. What waits is bounded, and beyond that `bus_slow` says what happens.
"""

from __future__ import annotations

import inspect
import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

from pronghorn import identity
from pronghorn.bus import local
from pronghorn.bus.errors import BusError
from pronghorn.bus.joined import JOINED, Exclusive
from pronghorn.bus.members import Message
from pronghorn.connection.base import AnyConnection, OnBus
from pronghorn.connection.blocking import Connection, ConnectionBase, cut
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.driver import BlockingTransport
from pronghorn.connection.transport import Transport
from pronghorn.errors import Replaced, TooMuchUnsent

LOOK = 0.05  # seconds until a loop looks again whether a peer has taken what it was sent
AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)


def join(
    conn: AnyConnection,
    name: str | bytes,
    exclusive: Exclusive = False,
    on_bus: OnBus | None = None,
    seen: object = None,
    frame: Callable[[Any], bytes] | None = None,
) -> None:
    """See AnyConnection.join. `seen` is what the handler sees of the connection, if it is something else; `frame`
    makes what is sent of a payload."""
    if is_over(conn):
        raise BusError("The connection has ended, and joins nothing.", hint="is_closing() tells.")
    if on_bus is not None and not callable(on_bus):
        raise TypeError(f"on_bus is a function of two arguments, the connection and the message, not {on_bus!r}")
    bus = local.here()
    taker = partial(taker_of, conn, on_bus, conn if seen is None else seen, frame)
    bus.join(conn.number, name, exclusive, taker)
    if on_bus is not None and (membership := JOINED.get(conn.number)) is not None:
        cast(AnyTaker, membership.taker).hear(on_bus)


def is_over(conn: Any) -> bool:
    return conn.is_closing() if isinstance(conn, Transport) else conn.fileno() < 0


def taker_of(conn: Any, on_bus: OnBus | None, seen: object, frame: Callable[[Any], bytes] | None) -> Any:
    """What delivers to a connection, whatever its kind."""
    if isinstance(conn, ConnectionBase) and isinstance(conn.protocol, Transport):
        conn = conn.protocol  # it is driven, or an asyncio loop of its own has it
    place = identity.bus
    assert place is not None
    if isinstance(conn, AnyChannel):
        return ChannelTaker(conn, on_bus, seen, frame, place)
    if isinstance(conn, BlockingTransport):
        return FlowTaker(conn.conn, conn._lock, on_bus, seen, frame, place, conn)
    return FlowTaker(conn, shared_lock(conn), on_bus, seen, frame, place)


class AnyTaker:
    """What all takers have."""

    __slots__ = ("_frame", "_most", "_note", "_oldest", "_on_bus", "_seen", "_slow")

    def __init__(
        self, on_bus: OnBus | None, seen: object, frame: Callable[[Any], bytes] | None, place: identity.BusPlace
    ) -> None:
        self._on_bus, self._seen, self._frame = on_bus, seen, frame
        self._most, self._oldest, self._note = place.most_unsent, place.drops_oldest, place.slow
        self._slow = False

    def hear(self, on_bus: OnBus) -> None:
        """From now on this function has the messages."""
        self._on_bus = on_bus

    def answers(self) -> bool:
        return self._on_bus is not None

    def framed(self, message: Message) -> bytes:
        return message.payload if self._frame is None else message.framed(self._frame)

    def slow(self, conn: Any, closed: bool) -> None:
        """The connection does not read: it is closed, or a message was dropped."""
        first, self._slow = not self._slow, True
        self._note(conn, closed, first)

    def tell(self, message: Message) -> Any:
        """Call the handler's on_bus; what it returns is the answer, unless that is None, or a coroutine."""
        assert self._on_bus is not None
        try:
            result = self._on_bus(self._seen, message)
        except BaseException:
            message.fail()
            raise
        if inspect.isawaitable(result):
            return result
        if result is not None:
            message.reply(result)
        return None


class ChannelTaker(AnyTaker):
    """Delivers to a channel, on its loop's thread."""

    __slots__ = ("_channel", "_tasks", "_waiting", "_waiting_bytes")

    def __init__(self, channel: AnyChannel, *about: Any) -> None:
        super().__init__(*about)
        self._channel = channel
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._tasks: set[Any] = set()

    @property
    def loop(self) -> Any:
        return self._channel.loop  # one that moves to another worker gets its loop later

    def is_over(self) -> bool:
        return self._channel.is_closing()

    def take(self, message: Message) -> bool:
        raise NotImplementedError("the loop's thread writes")

    def write(self, message: Message) -> None:
        self._channel.call(self._write, message)

    def evict(self) -> None:
        self.loop.call_soon_threadsafe(partial(self._channel.cut, Replaced()))

    def _write(self, message: Message) -> None:
        if self._on_bus is not None:
            if message.asked:
                message.when_replied(partial(self._replied, threading.get_ident()))
            coroutine = self.tell(message)
            if coroutine is not None:
                self._spawn(coroutine, message)
        elif self._oldest and (self._waiting or self._channel.throttled):
            self._keep(self.framed(message))
        else:
            full = self._channel.throttled and not self._channel.is_closing()
            self._channel.write(self.framed(message))
            if full and self._channel.is_closing():
                self.slow(self._channel, True)

    def _replied(self, thread: int) -> None:
        """A question was answered: on the loop's thread as a rule by what has just come, elsewhere nobody can tell."""
        if threading.get_ident() == thread:
            self._channel._asked = -1  # see AnyChannel.answered

    def _spawn(self, coroutine: Any, message: Message) -> None:
        import asyncio

        async def answer() -> None:
            try:
                if (result := await coroutine) is not None:
                    message.reply(result)
            except Exception as error:
                message.fail()
                self.loop.failed(self._channel, error)
                self._channel.abort()

        task = asyncio.ensure_future(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep(self, raw: bytes) -> None:
        """The peer does not read as fast: this waits, and the oldest are dropped."""
        if not self._waiting:
            self._channel.call_later(LOOK, self._look)
        self._waiting.append(raw)
        self._waiting_bytes += len(raw)
        while self._waiting_bytes > self._most and len(self._waiting) > 1:
            self._waiting_bytes -= len(self._waiting.popleft())
            self.slow(self._channel, False)

    def _look(self) -> None:
        while self._waiting and not self._channel.throttled:
            raw = self._waiting.popleft()
            self._waiting_bytes -= len(raw)
            self._channel.write(raw)
        if self._waiting:
            self._channel.call_later(LOOK, self._look)


class FlowTaker(AnyTaker):
    """Delivers to a blocking connection, from any thread; `lock` is what everybody takes who writes to it."""

    __slots__ = ("_bytes", "_conn", "_guard", "_lock", "_transport", "_waiting", "_writing")
    loop = None

    def __init__(self, conn: Any, lock: Any, *about: Any) -> None:
        transport = about[4] if len(about) > 4 else None
        super().__init__(*about[:4])
        self._conn, self._lock, self._transport = conn, lock, transport
        self._guard = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._writing = False

    def is_over(self) -> bool:
        return bool(self._transport.is_closing() if self._transport is not None else self._conn.fileno() < 0)

    def write(self, message: Message) -> None:
        self.take(message)

    def evict(self) -> None:
        cut(self._conn, Replaced())

    def take(self, message: Message) -> bool:
        if self.is_over():
            return False
        try:
            if self._on_bus is not None:
                return self._tell_here(message)
            raw = self.framed(message)
        except Exception as error:  # the conversation ends by it, as if it had raised it there
            cut(self._conn, error)
            return False
        with self._guard:
            if self._bytes + len(raw) > self._most and not self._make_room(len(raw)):
                return False
            self._waiting.append(raw)
            self._bytes += len(raw)
            if self._writing:
                return True
            self._writing = True
        self._begin()
        return True

    def hear(self, on_bus: OnBus) -> None:
        if self._transport is not None:
            self._transport.hear_calls()
        super().hear(on_bus)

    def _tell_here(self, message: Message) -> bool:
        if self._transport is not None:
            return bool(self._transport.call_in(partial(self.tell, message)))
        self.tell(message)
        return True

    def _make_room(self, size: int) -> bool:
        """More waits than may: whether this may wait too."""
        if not self._oldest:
            self.slow(self._conn, True)
            cut(self._conn, TooMuchUnsent(self._bytes))
            return False
        while self._waiting and self._bytes + size > self._most:
            self._bytes -= len(self._waiting.popleft())
            self.slow(self._conn, False)
        return True

    def _begin(self) -> None:
        """Write what the kernel takes at once; a thread has the rest."""
        raw = b""
        held = self._lock.acquire(blocking=False)
        if held:
            try:
                while (raw := self._next()) and self._conn.tls is None:
                    raw = raw[self._send(raw) :]
                    if raw:
                        break
                if not raw:
                    self._lock.release()
                    return
            except OSError:  # it is broken, as its own flow finds out
                self._give_up()
                self._lock.release()
                return
        threading.Thread(target=self._write_rest, args=(raw, held), name="pronghorn-bus-writer", daemon=True).start()

    def _send(self, raw: bytes) -> int:
        conn = self._conn
        bare = getattr(conn, "_sock", None)  # gevent's, which never blocks
        try:
            if bare is not None:
                sent = int(bare.send(raw))
            elif conn.gettimeout() is None:
                sent = int(conn.send(raw, AT_ONCE))
            else:
                sent = os.write(conn.fileno(), raw)  # send() of such a socket waits
        except (BlockingIOError, InterruptedError):
            return 0
        if self._transport is not None:
            self._conn.bytes_out += sent
        return sent

    def _write_rest(self, raw: bytes, held: bool) -> None:
        if not held:
            self._lock.acquire()
        elif isinstance(self._lock, WriteLock):
            self._lock.adopt()
        try:
            while raw or (raw := self._next()):
                if self.is_over():
                    return self._give_up()
                self._conn.sendall(raw)
                if self._transport is not None:
                    self._conn.bytes_out += len(raw)
                raw = b""
        except OSError:
            self._give_up()
        finally:
            self._lock.release()

    def _next(self) -> bytes:
        """The next to be written; empty, and nobody writes any more, if there is none."""
        with self._guard:
            if not self._waiting:
                self._writing = False
                return b""
            raw = self._waiting.popleft()
            self._bytes -= len(raw)
            return raw

    def _give_up(self) -> None:
        with self._guard:
            self._waiting.clear()
            self._bytes, self._writing = 0, False


class WriteLock:
    """A lock that its owner may take again, and that can be handed over to another thread."""

    __slots__ = ("_depth", "_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner, self._depth = 0, 0

    def acquire(self, blocking: bool = True) -> bool:
        me = threading.get_ident()
        if self._owner != me:
            if not self._lock.acquire(blocking=blocking):
                return False
            self._owner = me
        self._depth += 1
        return True

    def adopt(self) -> None:
        """Whoever held it has handed it over to this thread."""
        self._owner = threading.get_ident()

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class Shared:
    """What a handler's own blocking connection becomes when it joins: whoever writes takes a lock, so that nothing is
    written in the middle of what another writes. A mixin without slots: see `shared_lock`."""

    __slots__ = ()

    def sendall(self, *args: Any) -> None:
        with _locks[self]:
            super().sendall(*args)  # type: ignore[misc]

    def send(self, *args: Any) -> int:
        with _locks[self]:
            return super().send(*args)  # type: ignore[misc,no-any-return]

    def sendmsg(self, *args: Any) -> int:
        with _locks[self]:
            return super().sendmsg(*args)  # type: ignore[misc,no-any-return]


_locks: WeakKeyDictionary[Any, WriteLock] = WeakKeyDictionary()
_classes: dict[type, type] = {}


def shared_lock(conn: Connection) -> WriteLock:
    """The lock of a blocking connection whose handler writes by itself; from now on it takes that, too."""
    lock = _locks.get(conn)
    if lock is None:
        lock = _locks[conn] = WriteLock()
        kind = type(conn)
        if kind not in _classes:
            _classes[kind] = type(f"Shared{kind.__name__}", (Shared, kind), {"__slots__": ()})
        conn.__class__ = _classes[kind]
    return lock
