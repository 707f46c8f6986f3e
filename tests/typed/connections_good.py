"""Blocking handlers and protocols, with the types that the server gives them."""

import asyncio
import socketserver
import ssl
from typing import cast

import pronghorn


def blocking(conn: pronghorn.Connection, address: pronghorn.Peer) -> None:
    number: int = conn.number
    peer: tuple[str, int] | str = conn.peer
    while not conn.draining and (data := conn.recv(4096)):
        conn.sendall(b"%d %r " % (number, peer) + data)
    if conn.drain.wait(0.1):
        conn.stay()
    with conn.makefile("rb") as lines:
        line: bytes = lines.readline(1000)
    conn.sendall(line)


def over_tls(conn: pronghorn.Connection) -> str:
    tls = conn.tls
    if tls is None:
        return "no TLS"
    certificate = tls.peer_certificate
    if certificate is not None:
        names: list[str] = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
        expires: float = ssl.cert_time_to_seconds(certificate["notAfter"])
        return f"{names} {expires}"
    return tls.version + tls.cipher + (tls.alpn or "") + (tls.sni or "")


def begins_tls(conn: pronghorn.Connection, context: ssl.SSLContext) -> None:
    conn.start_tls(after=b"go ahead")
    conn.start_tls(pronghorn.current_tls(), timeout=5)


class BeginsTls(pronghorn.Protocol):
    def connection_made(self, transport: pronghorn.Transport) -> None:
        transport.start_tls(after=bytearray(b"go ahead"))


def behind_a_proxy(conn: pronghorn.Connection) -> bytes:
    header: pronghorn.ProxyHeader | None = conn.proxy
    return b"" if header is None else header.field(0x02) or header.extensions


def mail(conn: pronghorn.Connection) -> None:
    host: pronghorn.Peer = conn.local
    with conn.makefile("rwb") as file:
        file.write(f"220 {host}\r\n".encode())
        if file.readline(1000) == b"STARTTLS\r\n":
            conn.start_tls(after=b"220 go ahead\r\n", timeout=10)
            assert conn.tls is not None


async def secured(transport: pronghorn.Transport) -> None:
    await transport.start_tls(after=b"go ahead\n")
    where: pronghorn.Peer | None = transport.local
    transport.write(b"%r" % (where,))


class Echo(pronghorn.Protocol):
    def connection_made(self, transport: pronghorn.Transport) -> None:
        self.transport = transport
        transport.write(b"hello from %d\n" % transport.number)

    def data_received(self, data: bytes) -> None:
        self.transport.writelines([data, bytearray(b"\n"), memoryview(data)])
        if self.transport.get_write_buffer_size() > 2**20:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.transport.write_eof()
        return True

    def draining(self) -> bool | None:
        return self.transport.is_closing()


class OfAsyncio(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, pronghorn.Transport)
        self.transport = transport
        transport.stay()

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    transport: pronghorn.Transport = writer.get_extra_info("connection")
    leaving = asyncio.create_task(transport.drain.begins())
    writer.write(await reader.readline() + transport.peer[0].encode())
    await writer.drain()
    leaving.cancel()


class Greeting(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        conn = cast(pronghorn.Connection, self.request)
        conn.sendall(b"you are %d\n" % conn.number)


async def until_the_drain() -> float:
    drain: pronghorn.Drain = pronghorn.current_drain()
    await drain.begins()
    return drain.deadline
