"""Clients of the libraries in library_handlers.py: each connects, asks for an answer that takes so many seconds, calls
`asked` once its question is on the way, and raises unless it gets the whole answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0
Asked = Callable[[], None]


def http(port: int, seconds: float, asked: Asked) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"GET /%.1f HTTP/1.1\r\nHost: desk\r\n\r\n" % seconds)
        asked()
        got = b""
        while not got.endswith(b"kept"):
            more = sock.recv(65536)
            if not more:
                raise EOFError(f"the answer ended after {got!r}")
            got += more


def smtp(port: int, seconds: float, asked: Asked) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock, sock.makefile("rb") as file:

        def expect(code: bytes) -> None:
            while (line := file.readline())[:4] == code + b"-":
                pass
            if line[:3] != code:
                raise EOFError(f"{code!r} was expected, {line!r} came")

        expect(b"220")
        for command, code in (("EHLO me", b"250"), ("MAIL FROM:<a@b.c>", b"250"), ("RCPT TO:<d@e.f>", b"250")):
            sock.sendall(command.encode() + b"\r\n")
            expect(code)
        sock.sendall(b"DATA\r\n")
        expect(b"354")
        sock.sendall(b"Subject: x\r\n\r\n%.1f\r\n.\r\n" % seconds)
        asked()
        expect(b"250")


def websockets(port: int, seconds: float, asked: Asked) -> None:
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}") as connection:
        connection.send(str(seconds))
        asked()
        if (got := connection.recv(PATIENCE)) != "kept":
            raise EOFError(repr(got))


def grpclib(port: int, seconds: float, asked: Asked) -> None:
    from grpclib.client import Channel, UnaryUnaryMethod
    from library_handlers import Plain

    async def ask() -> None:
        channel = Channel("127.0.0.1", port, codec=Plain())  # type: ignore[arg-type]
        try:
            method = UnaryUnaryMethod(channel, "/desk/Answer", bytes, bytes)
            async with method.open() as stream:
                await stream.send_message(str(seconds).encode(), end=True)
                asked()
                if (got := await stream.recv_message()) != b"kept":
                    raise EOFError(repr(got))
        finally:
            channel.close()

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def ssh(port: int, seconds: float, asked: Asked) -> None:
    import paramiko

    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        transport = paramiko.Transport(sock)
        try:
            transport.start_client(timeout=PATIENCE)
            if not transport.is_authenticated():
                transport.auth_none("me")
            channel = transport.open_session(timeout=PATIENCE)
            channel.settimeout(PATIENCE)
            channel.exec_command(str(seconds))
            asked()
            if (got := channel.recv(100)) != b"kept":
                raise EOFError(repr(got))
        finally:
            transport.close()


def rpyc(port: int, seconds: float, asked: Asked) -> None:
    import rpyc as library

    connection = library.connect("127.0.0.1", port, config={"sync_request_timeout": PATIENCE})
    try:
        answer = library.async_(connection.root.answer)(seconds)
        asked()
        answer.wait()
        if answer.value != "kept":
            raise EOFError(answer.value)
    finally:
        connection.close()


def ftp(port: int, seconds: float, asked: Asked) -> None:
    """A download over another connection, while the control connection is silent behind its 150."""
    import ftplib

    got: list[Any] = []

    def came(data: bytes) -> None:
        if not got:
            asked()
        got.append(data)

    with ftplib.FTP(timeout=PATIENCE) as client:
        client.connect("127.0.0.1", port)
        client.login()
        client.retrbinary(f"RETR {seconds}", came)
        if b"".join(got) != b"kept" * 2048 * 64:
            raise EOFError(f"{sum(map(len, got))} bytes came")


def opcua(port: int, seconds: float, asked: Asked) -> None:
    from asyncua import Client, ua

    async def ask() -> None:
        async with Client(f"opc.tcp://127.0.0.1:{port}/", timeout=PATIENCE) as client:
            objects = client.nodes.objects
            call = asyncio.ensure_future(objects.call_method(ua.NodeId("answer", 2), seconds))
            await asyncio.sleep(0)
            asked()
            if (got := await call) != "kept":
                raise EOFError(repr(got))

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def _exactly(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = sock.recv(count - len(got))
        if not more:
            raise EOFError(f"the answer ended after {got!r}")
        got += more
    return got


def mqtt(port: int, seconds: float, asked: Asked) -> None:
    """A message of quality 1: the broker keeps it before it says so."""
    text = b"%.1f" % seconds
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        name = b"c%d" % sock.getsockname()[1]
        sock.sendall(bytes([0x10, 12 + len(name)]) + b"\0\4MQTT\4\2\0\x3c" + bytes([0, len(name)]) + name)
        if _exactly(sock, 4) != b"\x20\2\0\0":
            raise EOFError("no CONNACK")
        sock.sendall(bytes([0x32, 5 + len(text), 0, 1]) + b"t\0\7" + text)
        asked()
        if (got := _exactly(sock, 4)) != b"\x40\2\0\7":
            raise EOFError(f"no PUBACK: {got!r}")


def modbus(port: int, seconds: float, asked: Asked) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"\0\1\0\0\0\6\1\3\0" + bytes([int(seconds * 10)]) + b"\0\1")
        asked()
        if (got := _exactly(sock, 11))[-2:] != b"\0\7":
            raise EOFError(repr(got))


def dns(port: int, seconds: float, asked: Asked) -> None:
    label = b"%d-x" % int(seconds * 10)
    question = b"\0\7\1\0\0\1\0\0\0\0\0\0" + bytes([len(label)]) + label + b"\0\0\x10\0\1"
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(bytes([0, len(question)]) + question)
        asked()
        if b"kept" not in (got := _exactly(sock, int.from_bytes(_exactly(sock, 2), "big"))):
            raise EOFError(repr(got))


def xmlrpc(port: int, seconds: float, asked: Asked) -> None:
    body = (
        b"<methodCall><methodName>answer</methodName><params><param><value><double>%.1f</double></value></param>"
        % seconds
    )
    body += b"</params></methodCall>"
    head = b"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(head + body)
        asked()
        got = b"".join(iter(lambda: sock.recv(65536), b""))
        if b"kept" not in got:
            raise EOFError(repr(got))
