"""Handlers that tell of the process that they run in, and some that break it: what the tests of models ask for.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
from typing import Any

from pronghorn import Protocol, lines, message
from pronghorn.handlers.builtin import upper


def open_descriptors() -> bytes:
    """One line: `number=what it is;` for each descriptor of this process."""
    told = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            told[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the listing's own
    return ";".join(f"{number}={told[number]}" for number in sorted(told)).encode()


@message(lines)
def descriptors(line: bytes) -> bytes:
    return open_descriptors()


@message(lines)
def modules(line: bytes) -> bytes:
    """The modules that this process has imported."""
    return " ".join(sorted(sys.modules)).encode()


class DescriptorsProtocol(Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(open_descriptors() + b"\n")


def descriptors_blocking(conn: socket.socket) -> None:
    while conn.recv(65536):
        conn.sendall(open_descriptors() + b"\n")


def fork_fails_once() -> Any:
    """A factory: fork(2) finds no room for the first client's process."""
    fork = os.fork

    def fails() -> int:
        os.fork = fork
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = fails
    return upper


def thread_fails_once() -> Any:
    """A factory: the system has no thread for the first client."""
    start = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        threading.Thread.start = start  # type: ignore[method-assign]
        raise RuntimeError("can't start new thread")

    threading.Thread.start = fails  # type: ignore[method-assign]
    return upper


def no_loop() -> Any:
    """A factory: the model finds nothing to wait with, and cannot enter its loop."""

    def fails(*_: object, **__: object) -> None:
        raise OSError("nothing to wait with")

    select.select = select.poll = fails  # type: ignore[assignment]
    if hasattr(select, "epoll"):
        select.epoll = fails  # type: ignore[assignment, misc]
    if "asyncio" in sys.modules:
        sys.modules["asyncio"].Runner = fails  # type: ignore[attr-defined]
    return upper


@message(lines)
def whom(line: bytes, conn: Any) -> bytes:
    """For whom the connection is: the peer, and the version of the PROXY header if there was one."""
    return f"{line.decode()}: {conn.peer} {conn.proxy and conn.proxy.version}".encode()


def whom_blocking(conn: Any) -> None:
    while line := conn.recv(65536).strip():
        conn.sendall(f"{line.decode()}: {conn.peer} {conn.proxy and conn.proxy.version}\n".encode())


async def whom_streams(reader: Any, writer: Any) -> None:
    peer, proxy = writer.get_extra_info("peername"), writer.get_extra_info("proxy")
    while line := (await reader.readline()).strip():
        writer.write(f"{line.decode()}: {peer} {proxy and proxy.version}\n".encode())
    writer.close()


def upper_made() -> Any:
    """A factory: the handler upper."""
    return upper


def no_epoll() -> Any:
    """A factory: the system has no epoll(7)."""
    del select.epoll
    return upper
