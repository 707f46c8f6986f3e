"""Devices for the tests of the bus: a handler whose connections join and answer, and a client that speaks lines."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import psutil

from launch import Launched

MESSAGE = """
import os, pronghorn
from pronghorn import bus

@pronghorn.message(pronghorn.lines)
class handler:
    def __init__(self, conn):
        self.conn, self.asked = conn, []

    def __call__(self, line):
        word, _, rest = line.partition(b" ")
        if word == b"join":
            self.conn.join(rest)
        elif word == b"alone":
            self.conn.join(rest, exclusive=True)
        elif word == b"leave":
            self.conn.leave(rest)
        elif word == b"publish":
            name, _, payload = rest.partition(b" ")
            return b"%d" % bus.publish(name, payload)
        elif self.asked:
            self.asked.pop(0).reply(line)
            return None
        return b"%d" % os.getpid()
"""
ANSWERING = (
    MESSAGE
    + """
    def on_bus(self, message):
        self.conn.send(message.payload)
        if message.asked:
            self.asked.append(message)
"""
)


class Device:
    """A client that speaks lines."""

    def __init__(self, server: Launched) -> None:
        self.sock = server.connect()
        self.lines = self.sock.makefile("rb")

    def ask(self, line: bytes) -> bytes:
        self.sock.sendall(line + b"\n")
        return self.line()

    def line(self) -> bytes:
        return self.lines.readline().strip()

    def is_cut(self) -> bool:
        """Whether the server ends this connection; what it still sends is read."""
        while line := self.lines.readline():
            del line
        return True

    @contextlib.contextmanager
    def answering(self, answer: bytes) -> Iterator[None]:
        """The next line that comes is answered so."""
        thread = threading.Thread(target=lambda: self.line() and self.sock.sendall(answer + b"\n"))
        thread.start()
        yield
        thread.join()

    @contextlib.contextmanager
    def echoing(self) -> Iterator[None]:
        """Whatever comes is sent back, until this ends."""
        thread = threading.Thread(target=lambda: [self.sock.sendall(line) for line in self.lines], daemon=True)
        thread.start()
        yield
        self.sock.shutdown(socket.SHUT_RDWR)
        thread.join()

    def close(self) -> None:
        self.lines.close()
        self.sock.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def raised(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def bus_process(server: Launched) -> psutil.Process:
    """The hub of a server."""
    (found,) = bus_processes(server.pid)
    return found


def bus_processes(pid: int) -> list[psutil.Process]:
    """The hub of the server with this process id, if there is one."""
    return [each for each in psutil.Process(pid).children() if "bus" in " ".join(words_of(each))]


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has just ended."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
