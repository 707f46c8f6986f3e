"""A client's side of a conversation: wait for a condition, send and read at once, flood, reset.

Law: nothing here waits without a deadline, and nothing sleeps for a fixed time: a condition is looked at again and
again until it holds or the time is over.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Aborting(Protocol):
    """A client whose connection is another one's, and that can reset that connection."""

    def abort(self) -> None: ...


PATIENCE = 10.0
"""Seconds that a test waits for what should take moments."""

STALLED = 0.05  # seconds in which a server took nothing: time to look whether it has come to rest
SMALL_BUFFER = 64 * 1024  # for clients that do not read: so that the server notices soon
PIECE = 256 * 1024


def until(condition: Callable[[], object], what: str = "", *, patience: float = PATIENCE) -> None:
    """Wait until `condition()` is true. Raises AssertionError, with `what` was awaited, after `patience` seconds."""
    deadline = time.monotonic() + patience
    pause = 0.0002
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(f"after {patience:g} s still not: {what or condition}")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def exchange(
    sock: socket.socket,
    data: bytes = b"",
    *,
    expect: int | None = None,
    end: bool = False,
    reset_ends: bool = False,
    patience: float = PATIENCE,
) -> bytes:
    """Send `data` and read at the same time; what was read, once `expect` bytes have come or the server has ended.

    Without `expect` it reads to the server's end. With `end` the sending side is half-closed once all is sent. A
    server that reads no more is not an error as long as it answers. The socket keeps its timeout. Raises TimeoutError
    after `patience` seconds, with what had come by then, and ConnectionResetError for a reset, unless `reset_ends`.
    """
    deadline = time.monotonic() + patience
    timeout = sock.gettimeout()
    sock.setblocking(False)
    got = bytearray()
    rest: memoryview | None = memoryview(data)
    poller = select.poll()
    try:
        while expect is None or len(got) < expect or rest is not None:
            if rest is not None:
                rest = _send(sock, rest, end)
                if expect is not None and len(got) >= expect and rest is None:
                    break
            poller.register(sock, select.POLLIN | (select.POLLOUT if rest is not None else 0))
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"{len(got)} bytes came in {patience:g} s, and no end: {shown(got)}")
            if not _receive(sock, got, reset_ends):
                break
    finally:
        sock.settimeout(timeout)
    return bytes(got)


def _send(sock: socket.socket, rest: memoryview, end: bool) -> memoryview | None:
    """What is left to be sent; None when that is nothing, or the server takes no more."""
    try:
        while rest:
            rest = rest[sock.send(rest[:PIECE]) :]
        sock.send(b"")  # with TLS, encrypted bytes that count as sent may still wait
        if end:
            sock.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        return rest
    except OSError:
        pass  # recv() will say why
    return None


def _receive(sock: socket.socket, got: bytearray, reset_ends: bool) -> bool:
    """Append what has arrived to `got`; returns whether more may come."""
    try:
        data = sock.recv(PIECE)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        if reset_ends:
            return False
        raise ConnectionResetError(f"the server reset the connection after {len(got)} bytes: {shown(got)}") from None
    got += data
    return bool(data)


def flood(sock: socket.socket, question: bytes, most: int, at_rest: Callable[[], bool]) -> tuple[int, bytes]:
    """Send `question` over and over and read nothing, until the server takes no more, or `most` bytes are sent.

    That it takes nothing is believed only when it is `at_rest`: it might be slow. Returns the bytes that were sent, and
    the rest of the question that was begun. Raises TimeoutError if it neither takes nor rests.
    """
    chunk = question * max(1, PIECE // len(question))
    timeout = sock.gettimeout()
    sock.setblocking(False)
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    sent = 0
    deadline = time.monotonic() + PATIENCE
    try:
        while sent < most and (poller.poll(STALLED * 1000) or not at_rest()):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the server neither takes what is sent nor comes to rest, after {sent:,} bytes")
            try:
                sent += sock.send(memoryview(chunk)[sent % len(question) :])
            except BlockingIOError:
                continue
    finally:
        sock.settimeout(timeout)
    return sent, question[sent % len(question) :] if sent % len(question) else b""


def reset(sock: socket.socket) -> None:
    """Close the socket with a reset (socket(7), SO_LINGER with a time of 0)."""
    if isinstance(sock, Aborting):
        sock.abort()
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def shown(data: bytes | bytearray) -> str:
    """Bytes for a message, shortened in the middle."""
    if len(data) <= 100:
        return repr(bytes(data))
    return f"{bytes(data[:50])!r} ... {bytes(data[-30:])!r} ({len(data):,} bytes)"
