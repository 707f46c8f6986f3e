"""The link: this process's connection to the hub, and what is asked over it.

Law: one thread reads, and hands over what is delivered; any thread asks, and waits for the result with a limit. When
the hub is gone the link comes back by itself, and says again what the connections of this process have joined. What was
asked and not answered by then is lost, and whoever asked is told so. A forked process has a link of its own.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pronghorn.bus.errors import BusError, BusLost, BusUnavailable, HubSilent
from pronghorn.bus.line import Line
from pronghorn.bus.wire import ASK, HELLO, LISTING, PUBLISH, REFUSED, REPLY, RESULT, BadFrame, Reader, frame

if TYPE_CHECKING:
    import asyncio

BUFFER = 64 * 1024
SHORTEST_PAUSE, LONGEST_PAUSE = 0.01, 0.25  # seconds before another attempt
STUCK = 5  # seconds that a hub may read nothing
AT_ONCE = 0.001  # seconds
MOST_OWED = 8 * 1024 * 1024  # bytes that wait for a hub which reads nothing: then its connection is ended
LOST = object()


class Waiter:
    """Whoever waits for a result: a thread, by a lock."""

    __slots__ = ("_lock", "result")

    def __init__(self) -> None:
        self.result: Any = LOST
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, seconds: float) -> bool:
        return self._lock.acquire(timeout=max(0.0, seconds))

    def set(self, result: Any) -> None:
        self.result = result
        self._lock.release()


class Link:
    """A link to the hub. `connect` gives a new connection to it, or raises OSError or BusUnavailable. `again` gives the
    frames that are sent first on each connection; `hear` is called with each frame that is no result, on the link's
    thread."""

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        again: Callable[[], Iterable[bytes]],
        hear: Callable[[Sequence[Any]], None],
    ) -> None:
        self._connect, self._again, self._hear = connect, again, hear
        self.refusal = ""
        """Why the hub does not want this process, if it has said so."""
        self._sock: socket.socket | None = None
        self._sending = threading.Lock()
        self._owed: deque[bytes] = deque()  # what was not sent at once; what was sent in part is the first
        self._owing = 0  # bytes, at most
        self._paying = False
        self._up = threading.Event()
        self._waiters: dict[int, Any] = {}
        self._counter = threading.Lock()
        self._last = 0
        self.late = False
        """A result did not come in time, and nothing has come since."""
        self._closed = False
        self._answered = False  # the hub has, over this connection
        self._line = Line(connect)
        threading.Thread(target=self._run, name="pronghorn-bus", daemon=True).start()

    def request(self, seconds: float, kind: int, *fields: Any) -> Any:
        """Ask, and wait for the fields of the result. Raises BusUnavailable if the hub cannot be asked in so many
        seconds, BusLost if it says nothing or went away meanwhile."""
        if kind == PUBLISH and (result := self._by_line(seconds, kind, *fields)) is not None:
            return result
        until = time.monotonic() + seconds
        waiter = Waiter()
        number = self._begin(waiter)
        try:
            self._send(until, kind, number, *fields)
            if not waiter.wait(until - time.monotonic()):
                self.late = True
                raise _late(kind, seconds)
        finally:
            self._waiters.pop(number, None)
        return self.checked(waiter.result)

    def _by_line(self, seconds: float, *fields: Any) -> Any:
        """A result that the thread which waits reads itself; None if nothing was sent. Not while anything else is under
        way: what was sent before is to be there before. Not as long as the hub may refuse this process. Not where
        gevent has made all sockets its own."""
        if self._waiters or self.late or not self._answered or socket.socket.__module__ != "socket":
            return None
        try:
            return self._line.request(seconds, *fields)
        except HubSilent:
            self.late = True
            raise

    def checked(self, result: Any) -> Any:
        """A result, or the error that stands in its place."""
        if result is LOST:
            raise self._unavailable() if self.refusal else BusLost()
        return result

    def begin(self, waiter: Any, until: float, kind: int, *fields: Any) -> int:
        """Ask; `waiter.set` is called with the result's fields, or with LOST, on the link's thread. Gives the number
        for `forget`. Raises BusUnavailable."""
        number = self._begin(waiter)
        try:
            self._send(until, kind, number, *fields)
        except BaseException:
            self._waiters.pop(number, None)
            raise
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for this result any more."""
        self._waiters.pop(number, None)

    def tell(self, *fields: Any) -> bool:
        """Send what has no result; false if there is no connection now."""
        sock = self._sock
        return sock is not None and self._put(sock, frame(*fields))

    def tell_later(self, *fields: Any) -> None:
        """Send what has no result, and is not needed where there is no connection, without a wait for a hub that reads
        nothing: then a thread has it, and whoever sends next sends it before."""
        if self._sock is None:
            return
        raw = frame(*fields)
        self._owed.append(raw)
        self._owing += len(raw)
        if self._owing > MOST_OWED:
            return self._drop(self._sock)
        if not self._paying and not self._pay_at_once():
            self._paying = True
            threading.Thread(target=self._pay, name="pronghorn-bus-later", daemon=True).start()

    def _pay_at_once(self) -> bool:
        """Send what is owed; false if that would take a wait."""
        if not self._sending.acquire(timeout=AT_ONCE):
            return False
        try:
            while self._owed and (sock := self._sock) is not None:
                raw = self._owed[0]
                sent = sock.send(raw, socket.MSG_DONTWAIT)
                if sent < len(raw):
                    self._owed[0] = raw[sent:]
                else:
                    self._owed.popleft()
            self._owing = 0
        except BlockingIOError:
            return False
        except OSError:
            self._drop(sock)
        finally:
            self._sending.release()
        return True

    def _pay(self) -> None:
        while self._owed and (sock := self._sock) is not None:
            self._paying = True
            self._put(sock, b"")
            self._paying = False  # whoever comes now sees to it, or the next turn

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    def close(self) -> None:
        self._closed = True
        self._drop(self._sock)
        self._line.close()

    def let_go(self) -> None:
        """In a forked process: what the parent has is not its own."""
        if self._sock is not None:
            self._sock.close()
        self._line.let_go()

    def _begin(self, waiter: Any) -> int:
        with self._counter:
            self._last += 1
            self._waiters[self._last] = waiter
            return self._last

    def _send(self, until: float, *fields: Any) -> None:
        raw = frame(*fields)
        while (left := until - time.monotonic()) > 0 or self.is_up:
            if self._up.wait(min(left, LONGEST_PAUSE)):
                sock = self._sock
                if sock is not None and self._put(sock, raw):
                    return
            elif self.refusal:
                break
        raise self._unavailable()

    def _unavailable(self) -> BusUnavailable:
        return BusUnavailable(self.refusal or "There is no connection to its hub.")

    def _put(self, sock: socket.socket, raw: bytes) -> bool:
        try:
            with self._sending:
                if self._owed:
                    while self._owed:
                        sock.sendall(self._owed[0])
                        self._owed.popleft()
                    self._owing = 0
                sock.sendall(raw)
        except OSError:
            self._drop(sock)
            return False
        return True

    def _drop(self, sock: socket.socket | None) -> None:
        """Have the thread find the end of this connection."""
        if sock is self._sock:  # and not one that has ended before
            self._answered = False
            self._up.clear()
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _run(self) -> None:
        pause = SHORTEST_PAUSE
        while not self._closed:
            try:
                sock = self._connect()
            except (OSError, BusUnavailable):
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            try:
                with suppress(BrokenPipeError):  # it may have said why
                    self._open(sock)
                if self._listen(sock):
                    pause = SHORTEST_PAUSE
            except (OSError, BadFrame):
                pass
            except Exception as error:  # a fault of ours: told as any thread's, and the bus goes on
                about = type(error), error, error.__traceback__, threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs(about))
            self._end(sock)
            if not self._closed:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _open(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", STUCK, 0))
        with self._sending:  # whoever joins now waits until the rest is said
            self._owing = 0
            self._owed.clear()  # a new hub knows of nothing that has ended
            again = iter(self._again())
            begun = next(again, b"")  # what was asked by the hub before is withdrawn
            self._sock = sock
            sock.sendall(frame(HELLO, os.getpid()) + begun)
            for each in again:
                sock.sendall(each)
        if self._closed:  # meanwhile: `close` has not seen this connection
            raise OSError("the link is closed")
        self._up.set()

    def _listen(self, sock: socket.socket) -> bool:
        """Hear until the end; whether anything was heard."""
        reader, waiters = Reader(), self._waiters
        heard = False
        while True:
            data = sock.recv(BUFFER)
            if not data:
                return heard
            heard, self.late = True, False
            for each in reader.feed(data):
                if each[0] in (RESULT, REPLY, LISTING):
                    if (waiter := waiters.pop(each[1], None)) is not None:
                        self._answered = True
                        waiter.set(each[2:])
                elif each[0] == REFUSED:
                    self.refusal = each[1]
                else:
                    self._hear(each)

    def _end(self, sock: socket.socket) -> None:
        self._answered = False
        self._up.clear()
        with self._sending:
            self._sock = None
            sock.close()
        for number in list(self._waiters):
            if (waiter := self._waiters.pop(number, None)) is not None:
                waiter.set(LOST)


def _late(kind: int, seconds: float) -> BusError:
    """The error for a result that did not come in time. To publish or to ask again might do it twice."""
    if kind in (PUBLISH, ASK):
        return HubSilent(seconds)
    return BusUnavailable(f"It has not answered in {seconds:g} s.")


async def result_of(link: Link, seconds: float, kind: int, *fields: Any) -> Any:
    """`link.request` for a coroutine."""
    import asyncio  # here: not every worker needs it

    loop = asyncio.get_running_loop()
    until = time.monotonic() + seconds
    while not link.is_up:
        if time.monotonic() >= until:
            raise link._unavailable()
        await asyncio.sleep(0.01)
    future: asyncio.Future[Any] = loop.create_future()
    number = link.begin(FutureWaiter(loop, future), time.monotonic(), kind, *fields)
    try:
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            result = await future
    except TimeoutError:
        link.late = True
        raise _late(kind, seconds) from None
    finally:
        link.forget(number)
    return link.checked(result)


class FutureWaiter:
    """Whoever waits for a result: a coroutine."""

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]) -> None:
        self._loop, self._future = loop, future

    def set(self, result: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake, result)
        except RuntimeError:  # that loop was closed
            pass

    def _wake(self, result: Any) -> None:
        if not self._future.done():
            self._future.set_result(result)
