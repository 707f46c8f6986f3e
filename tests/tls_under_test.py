"""Handlers that tell of the TLS below them, in every style; and authorities that sign certificates for tests.

Law: workers import this file by its name, so what only a test needs is imported where it is used.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from pronghorn import Protocol, lines, message, stream


def told(tls: Any) -> bytes:
    if tls is None:
        return b"none\n"
    certificate = tls.peer_certificate
    names = [value for kind, value in certificate["subjectAltName"]] if certificate else None
    return json.dumps([tls.version, tls.cipher, tls.alpn, tls.sni, names]).encode() + b"\n"


@message(lines)
def by_message(line: bytes, conn: Any) -> bytes:
    return told(conn.tls)[:-1]


class ByProtocol(Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(told(self.transport.tls))


def by_blocking(conn: Any) -> None:
    conn.recv(100)
    conn.sendall(told(conn.tls))


async def by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    assert writer.get_extra_info("ssl_object") is not None
    assert writer.get_extra_info("cipher")[0] == writer.get_extra_info("tls").cipher
    assert writer.get_extra_info("peercert") == writer.get_extra_info("ssl_object").getpeercert()
    writer.write(told(writer.get_extra_info("tls")))
    await writer.drain()


def says_goodbye(conn: Any) -> None:
    """Reads nothing until draining has begun, and for a while longer. The log tells that it is there."""
    os.write(2, b"HELD\n")
    while not conn.draining:
        time.sleep(0.01)
    time.sleep(0.3)
    conn.sendall(b"goodbye")
    conn.recv(100)


def as_socket(conn: Any) -> None:
    """What handlers do with a socket: files, timeouts, both directions at once on two threads, and the end."""
    conn.settimeout(10)
    with conn.makefile("rwb") as file:
        assert file.readline() == b"first\n"
        file.write(b"FIRST\n")
        file.flush()
    conn.settimeout(None)
    view = bytearray(4)
    assert conn.recv_into(view) == 4
    conn.send(view.upper())
    got = len(conn.recv(1))
    writer = threading.Thread(target=conn.sendall, args=(b"w" * 1_000_000,))
    writer.start()
    while got < 1_000_000:
        got += len(conn.recv(65536))
    writer.join()
    with open(__file__, "rb") as this:
        conn.sendfile(this)
    for call in (conn.recvmsg, conn.dup, conn.sendto):
        try:
            call(100)
        except NotImplementedError:
            continue
        raise AssertionError(f"{call} was let through")
    conn.shutdown(socket.SHUT_WR)
    assert conn.recv(100) == b""


@message(stream)
def large(data: bytes) -> bytes:
    return data * 20


class Authority:
    """An authority for certificates, and its file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        import trustme

        self.folder = folder
        self._ca = trustme.CA()
        self.path = str(folder / f"{name}.pem")
        self._ca.cert_pem.write_to_path(self.path)

    def sign(
        self, name: str, *hosts: str, days: float = 100, since: float = -1, kind: str = "ECDSA"
    ) -> tuple[str, str]:
        """Paths of a certificate and its key; those that are there are replaced as a whole."""
        import trustme

        now = datetime.datetime.now(datetime.UTC)
        dates = {"not_before": now + datetime.timedelta(since), "not_after": now + datetime.timedelta(days)}
        pair = self._ca.issue_cert(*(hosts or ("localhost",)), key_type=trustme.KeyType[kind], **dates)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        for path, content in ((certificate, pair.cert_chain_pems[0].bytes()), (key, pair.private_key_pem.bytes())):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.rename(path)
        return str(certificate), str(key)
