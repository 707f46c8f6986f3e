"""A bad network between a client and a server: slow, cut into pieces, broken off, or silent.

Law: the two directions are independent, each with its own faults; the bytes that pass stay in order and unchanged. A
proxy listens at a free port of 127.0.0.1, and leaves nothing behind when its block ends. Each connection counts its own
bytes.
"""

from __future__ import annotations

import collections
import contextlib
import math
import select
import socket
import struct
import threading
import time
from types import TracebackType

import msgspec

Address = tuple[str, int] | str

READ_SIZE = 64 * 1024
LOOK = 0.05  # seconds between two looks at whether the block has ended
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 seconds; closing then sends a reset (tcp(7))


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to the bytes of one direction; by default they pass."""

    latency: float = 0.0
    """Seconds that each piece is held back."""
    piece: int = READ_SIZE
    """Bytes that are sent at once, at most."""
    reset_after: float = math.inf
    """After so many bytes both sides get a reset."""
    end_after: float = math.inf
    """After so many bytes this direction is half-closed, and the rest is lost."""
    silence_after: float = math.inf
    """After so many bytes nothing passes, not even the end; both connections stay open."""


class _Pipe:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        self.source, self.sink, self.way = source, sink, way
        self.waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        self.passed = 0  # bytes read that are to be sent
        self.over = False  # the source has ended, or nothing more is to pass
        self.ended = False  # the sink has been half-closed

    @property
    def silent(self) -> bool:
        return self.passed >= self.way.silence_after

    @property
    def wants_read(self) -> bool:
        return not (self.over or self.silent or self.waiting)

    def due(self, now: float) -> float:
        """Seconds until something is to be sent."""
        return max(0.0, self.waiting[0][0] - now) if self.waiting else math.inf

    def read(self, now: float) -> None:
        way = self.way
        data = self.source.recv(READ_SIZE)
        room = min(way.reset_after, way.end_after, way.silence_after) - self.passed
        if len(data) > room:
            data = data[: int(room)]
        elif not data:
            self.over = True
        self.passed += len(data)
        pieces = [data[at : at + way.piece] for at in range(0, len(data), way.piece)]
        self.waiting.extend((now + way.latency * (place + 1), each) for place, each in enumerate(pieces))
        self.over = self.over or self.passed >= way.end_after

    def write(self) -> None:
        when, piece = self.waiting.popleft()
        sent = self.sink.send(piece)
        if sent < len(piece):
            self.waiting.appendleft((when, piece[sent:]))

    def finish(self) -> None:
        """Half-close the sink once all has been sent."""
        if self.over and not self.waiting and not self.ended and not self.silent:
            self.ended = True
            self.sink.shutdown(socket.SHUT_WR)

    @property
    def broken(self) -> bool:
        return self.passed >= self.way.reset_after and not self.waiting


class ChaosProxy:
    """A proxy for `with`: clients connect to its `address` and reach `target` through the faults.

    `target` is (host, port) or the path of a unix socket. `up` is what happens on the way from the client to the
    server, `down` on the way back. At the end of the block the port and all connections are closed. A server that
    cannot be reached gives the client a reset.
    """

    def __init__(self, target: Address, *, up: Way | None = None, down: Way | None = None) -> None:
        self._target = target
        self._up, self._down = up or Way(), down or Way()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.settimeout(LOOK)
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> ChaosProxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """A client's connection through the proxy, with a `timeout` in seconds for all that it does. Raises OSError."""
        return socket.create_connection(self.address, timeout)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True, name="chaos")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._start(self._hold, client)

    def _hold(self, client: socket.socket) -> None:
        family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
        if not isinstance(self._target, str) and ":" in self._target[0]:
            family = socket.AF_INET6
        with client, socket.socket(family) as server:
            try:
                server.connect(self._target)
                for each in (client, server):
                    each.setblocking(False)
                    if each.family != socket.AF_UNIX:
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass([_Pipe(client, server, self._up), _Pipe(server, client, self._down)])
            except OSError:  # one side is gone: reset both
                _reset(client, server)

    def _pass(self, pipes: list[_Pipe]) -> None:
        while not self._stop.is_set() and not all(pipe.ended for pipe in pipes):
            now = time.monotonic()
            poller = select.poll()
            wishes: dict[int, int] = {}
            for pipe in pipes:
                wishes[pipe.source.fileno()] = wishes.get(pipe.source.fileno(), 0) | select.POLLIN * pipe.wants_read
                wishes[pipe.sink.fileno()] = wishes.get(pipe.sink.fileno(), 0) | select.POLLOUT * (pipe.due(now) == 0)
            for fd, events in wishes.items():
                if events:
                    poller.register(fd, events)
            ready = dict(poller.poll(min(LOOK, *(pipe.due(now) or LOOK for pipe in pipes)) * 1000))
            for pipe in pipes:
                if pipe.due(now) == 0 and ready.get(pipe.sink.fileno()):
                    pipe.write()
                if pipe.wants_read and ready.get(pipe.source.fileno(), 0) & ~select.POLLOUT:
                    pipe.read(now)
                if pipe.broken:
                    raise ConnectionResetError
                pipe.finish()


def _reset(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            if each.family != socket.AF_UNIX:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
