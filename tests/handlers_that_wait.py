"""Handlers that wait for their client in every way there is, and some that do not wait but compute or fail.

Law: workers import this file by its name, so it imports no test's tools.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import ssl
import time
from typing import Any

from pronghorn import lines, message


@message(lines)
def raises(line: bytes) -> bytes:
    raise ValueError(line)


@message(lines)
def fails_at_fail(line: bytes) -> bytes:
    if line == b"fail":
        raise ValueError(line)
    return line.upper()


@message(lines)
def crashes(line: bytes) -> bytes:
    """Upper case; one message ends the process, as a fault in a C library would."""
    if line == b"crash":
        os.abort()
    return line.upper()


@message(lines)
def computes(line: bytes) -> bytes:
    """For as many seconds as the line says; nobody is waited for."""
    time.sleep(float(line))
    return line


def reads_a_file(conn: socket.socket) -> None:
    with conn.makefile("rwb") as file:
        for line in file:
            file.write(line)
            file.flush()


def receives(conn: socket.socket) -> None:
    buffer = bytearray(100)
    while count := conn.recv_into(buffer):
        conn.sendall(buffer[:count])


def has_a_timeout(conn: socket.socket) -> None:
    conn.settimeout(60)
    receives(conn)


def floods(conn: socket.socket) -> None:
    """Waits for a client that does not read."""
    conn.sendall(conn.recv(100))
    conn.sendall(bytes(64 * 1024 * 1024))


def wraps(conn: socket.socket) -> None:
    """Speaks TLS, without a certificate."""
    with anonymous_tls(ssl.PROTOCOL_TLS_SERVER).wrap_socket(conn, server_side=True) as wrapped:
        while data := wrapped.recv(100):
            wrapped.sendall(data)


def anonymous_tls(purpose: int) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


async def streams(reader: Any, writer: Any) -> None:
    while data := await reader.read(100):
        writer.write(data)


@message(lines)
def spins(line: bytes) -> bytes:
    """As computes, without a call that others could take for a pause."""
    end = time.monotonic() + float(line)
    while time.monotonic() < end:
        pass
    return line


def sleeps_without_signals(conn: socket.socket) -> None:
    """Echoes twice; then no signal wakes this thread."""
    for _ in range(2):
        conn.sendall(conn.recv(100))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
    conn.sendall(b"sleeps")
    time.sleep(1000)


def sleeps_for_ever(conn: socket.socket) -> None:
    """Echoes once, and sleeps on whatever is raised in it."""
    conn.sendall(conn.recv(100))
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


def computes_for_ever(conn: socket.socket) -> None:
    """Echoes once, and computes in C, which keeps the interpreter and looks at no signal."""
    conn.sendall(conn.recv(100))
    sum(itertools.repeat(0, 10**15))
