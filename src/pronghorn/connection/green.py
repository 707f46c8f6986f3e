"""`GreenConnection`: a blocking connection whose socket is gevent's, so that a greenlet waits and no thread does.

Law: a handler's calls mean what gevent's own mean. Two of them ask the kernel for less: after a read that found less
than there was room for, `recv` waits before it reads again, where gevent reads first, mostly in vain; and `sendall`
sends at once, where gevent asks for the size of the kernel's buffer each time. Imported only where gevent is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent.lock
import gevent.socket

from pronghorn.connection.blocking import SLOTS, ConnectionBase
from pronghorn.system.wait_channel import WaitsFor


class GreenConnection(ConnectionBase, gevent.socket.socket):
    """One accepted connection as a blocking handler sees it, under gevent."""

    __slots__ = (*SLOTS, "drained", "greenlet")
    drained: bool
    """The last read has taken all that was there."""
    greenlet: Any
    """The one that converses."""
    make_lock = gevent.lock.Semaphore  # type: ignore[assignment]  # a third of the time of what stands for Lock
    if TYPE_CHECKING:  # gevent's own
        _sock: Any
        _read_event: Any

        def _wait(self, watcher: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drained = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        if flags or self.timeout == 0.0:
            return super().recv(size, flags)
        if self.drained:
            self._wait(self._read_event)
        try:
            data: bytes = self._sock.recv(size)
        except BlockingIOError:
            data = super().recv(size)
        self.drained = len(data) < size
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        if flags or self.timeout == 0.0:
            return super().recv_into(buffer, nbytes, flags)
        if self.drained:
            self._wait(self._read_event)
        count: int = super().recv_into(buffer, nbytes)
        self.drained = count < (nbytes or memoryview(buffer).nbytes)
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        if type(data) is not bytes or flags or self.timeout == 0.0:
            super().sendall(data, flags)
            return
        try:
            sent: int = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            super().sendall(memoryview(data)[sent:])

    def waits_for(self) -> WaitsFor:
        # Only gevent knows where a greenlet waits: whom the input's watcher will wake is asked for when somebody asks.
        if self.program:
            return super().waits_for()
        waiter = getattr(getattr(self._read_event, "callback", None), "__self__", None)
        here = getattr(waiter, "greenlet", None) is getattr(self, "greenlet", False)
        return WaitsFor.CLIENT if here else WaitsFor.ELSEWHERE

    def end(self) -> None:
        # By gevent's own close: its loop must forget the number, which the next descriptor will have.
        try:
            super()._real_close()  # type: ignore[misc]
        except OSError:
            pass

    def shutdown(self, how: int) -> None:
        # gevent's own also interrupts a greenlet that waits, with an error that no handler expects.
        self._sock.shutdown(how)

    def _real_close(self, *args: Any, **kwargs: Any) -> None:
        self.end_by_itself()
        super()._real_close(*args, **kwargs)  # type: ignore[misc]
