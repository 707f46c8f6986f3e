"""One protocol for two servers: asyncio's own and Pronghorn. It notes what its transport answers, and writes that down.

Law: the client's first line names a scenario and the file for the notes; nothing here knows which server it is.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import ssl
import threading
from typing import Any


class Noting(asyncio.Protocol):
    """Notes in `seen`, as pairs of what was asked and what came; written down when the connection is lost."""

    path = ""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.seen: list[Any] = []
        self.scenario = ""
        self.size = 0
        self.loop = asyncio.get_running_loop()

    def note(self, name: str, call: Any, *args: Any, **kwargs: Any) -> None:
        try:
            value = call(*args, **kwargs)
        except Exception as error:
            value = type(error).__name__
        self.seen.append([name, list(value) if isinstance(value, tuple) else value])

    def data_received(self, data: bytes) -> None:
        if not self.scenario:
            self.scenario, self.path = data.decode().split()
            getattr(self, self.scenario)()
        else:
            self.seen.append(["data", data.decode()])
            if data.endswith(b"close"):
                self.transport.close()

    def eof_received(self) -> bool:
        self.seen.append(["eof", self.transport.is_closing()])
        if self.scenario == "eof_that_stays":
            self.note("is_reading", self.transport.is_reading)
            self.transport.write(b"after the end")
            self.loop.call_later(0.05, self.transport.close)
            return True
        return False

    def pause_writing(self) -> None:
        self.seen.append(["pause_writing", self.transport.get_write_buffer_size() > 0])

    def resume_writing(self) -> None:
        self.seen.append(["resume_writing", self.transport.get_write_buffer_size()])
        self.transport.close()

    def connection_lost(self, error: BaseException | None) -> None:
        transport = self.transport
        self.seen.append(["lost", None if error is None else type(error).__name__])
        self.note("closing", transport.is_closing)
        self.note("reading", transport.is_reading)
        self.note("write when lost", transport.write, b"x")
        self.note("close when lost", transport.close)
        self.note("abort when lost", transport.abort)
        self.note("pause when lost", transport.pause_reading)
        self.note("resume when lost", transport.resume_reading)
        self.note("size when lost", transport.get_write_buffer_size)
        threading.Timer(0.05, self.write_down).start()  # a loop of its own is over by then

    def write_down(self) -> None:
        for name in ("peername", "sockname"):
            value = self.transport.get_extra_info(name)
            self.seen.append([f"{name} when over", type(value).__name__, len(value)])
        with open(f"{self.path}.new", "w") as file:
            json.dump(self.seen, file)
        os.replace(f"{self.path}.new", self.path)

    # Scenarios.

    def state(self) -> None:
        transport = self.transport
        for name in ("is_reading", "is_closing", "can_write_eof", "get_write_buffer_size", "get_write_buffer_limits"):
            self.note(name, getattr(transport, name))
        self.note("protocol", lambda: transport.get_protocol() is self)
        for turn in (1, 2):
            self.note(f"pause {turn}", transport.pause_reading)
            self.note(f"reading {turn}", transport.is_reading)
        for turn in (1, 2):
            self.note(f"resume {turn}", transport.resume_reading)
            self.note(f"reading again {turn}", transport.is_reading)
        names = ("peername", "sockname", "socket", "compression", "cipher", "peercert", "sslcontext", "ssl_object")
        for name in (*names, "pipe", "subprocess", "unheard of"):
            self.note(name, lambda name=name: type(transport.get_extra_info(name)).__name__)
            self.note(f"{name} or", lambda name=name: transport.get_extra_info(name, 7) == 7)
        self.note("family", lambda: int(transport.get_extra_info("socket").family))
        transport.close()
        transport.close()
        self.note("closing", transport.is_closing)
        self.note("reading", transport.is_reading)
        self.note("pause", transport.pause_reading)
        self.note("write when closing", transport.write, b"nobody hears")

    def limits(self) -> None:
        transport = self.transport

        def set_and_get(**limits: Any) -> Any:
            transport.set_write_buffer_limits(**limits)
            return transport.get_write_buffer_limits()

        both = [{"high": high, "low": low} for high, low in ((8, 8), (10, 20), (5, -1), (1 << 30, 1))]
        one = [{"high": 100}, {"low": 100}, {"high": 0}, {"high": -1}, {"low": 0}]
        for limits in ({}, *one, *both):
            self.note(repr(limits), set_and_get, **limits)
            self.note("after", transport.get_write_buffer_limits)
        transport.close()

    def writes(self) -> None:
        transport = self.transport
        for data in (b"a", bytearray(b"b"), memoryview(b"c"), b"", "text", 7, None, [1, 2]):
            self.note(f"write {data!r:.12}", transport.write, data)
        self.note("lines", transport.writelines, [b"d", bytearray(b"e"), memoryview(b"f")])
        self.note("lines of an iterator", transport.writelines, iter([b"g", b"h"]))
        self.note("lines of text", transport.writelines, ["text"])
        self.note("write_eof", transport.write_eof)
        self.note("write_eof again", transport.write_eof)
        self.note("write after the end", transport.write, b"x")
        self.note("lines after the end", transport.writelines, [b"x"])
        self.note("can_write_eof", transport.can_write_eof)
        self.note("closing", transport.is_closing)

    def aborts(self) -> None:
        self.transport.write(b"x" * 20_000_000)
        self.note("abort", self.transport.abort)
        self.note("size", self.transport.get_write_buffer_size)
        self.note("closing", self.transport.is_closing)

    def throttled(self) -> None:
        self.transport.set_write_buffer_limits(high=1000, low=0)
        self.transport.write(b"x" * 20_000_000)
        self.have_it_read()

    def limits_later(self) -> None:
        self.transport.set_write_buffer_limits(high=1 << 30)
        self.transport.write(b"x" * 20_000_000)
        self.note("lower", self.transport.set_write_buffer_limits, high=1000)
        self.have_it_read()

    def have_it_read(self) -> None:
        """Until now the client read nothing, else the kernel might have taken all at once."""
        open(f"{self.path}.written", "w").close()

    def eof_that_stays(self) -> None:
        self.transport.write(b"go on")

    def eof_that_ends(self) -> None:
        self.transport.write(b"go on")

    def another(self) -> None:
        self.transport.set_protocol(Second(self))
        self.note("protocol", lambda: isinstance(self.transport.get_protocol(), Second))
        self.transport.write(b"go on")

    def raises(self) -> None:
        self.transport.write(b"go on")
        raise ZeroDivisionError("on purpose")


class Second(asyncio.BufferedProtocol):
    """Takes the connection over, with a buffer of its own."""

    def __init__(self, first: Noting) -> None:
        self.first, self.buffer = first, bytearray(4)

    def get_buffer(self, hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.first.seen.append(["bytes", bytes(self.buffer[:count]).decode()])

    def eof_received(self) -> None:
        self.first.seen.append(["eof of the second", self.first.transport.is_closing()])

    def connection_lost(self, error: BaseException | None) -> None:
        self.first.connection_lost(error)


async def sends_files(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`PATH OFFSET COUNT FALLBACK how`, then the file, then what was noted; `how` may ask for TLS before."""
    loop = asyncio.get_running_loop()
    while line := (await reader.readline()).decode().split():
        path, offset, count, fallback, how = line
        if how == "tls":
            writer.write(b"now\n")
            await writer.drain()
            await writer.start_tls(context())
            continue
        file: Any = io.BytesIO(open(path, "rb").read()) if how == "memory" else open(path, "rb")
        with file:
            writer.write(b"ahead:")
            if how == "behind":
                writer.write(b"x" * 3_000_000)  # much of it is unsent yet
            try:
                sent: Any = await loop.sendfile(
                    writer.transport, file, int(offset), int(count) or None, fallback=fallback == "yes"
                )
            except Exception as error:
                sent = type(error).__name__
            note = [sent, file.tell(), writer.transport.is_reading()]
        writer.write(b"\n" + json.dumps(note).encode() + b"\n")
        await writer.drain()


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(os.environ["TLS_CERT"], os.environ["TLS_KEY"])
    return made


async def upgrades(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says go, becomes TLS, answers a line in upper case, and goes on until the client's end."""
    assert await reader.readline() == b"starttls\n"
    writer.write(b"now\n")
    await writer.start_tls(context())
    kind = type(writer.get_extra_info("ssl_object")).__name__
    writer.write(f"{kind} {writer.get_extra_info('peername')[0]}\n".encode())
    while line := await reader.readline():
        writer.write(line.upper())
    writer.write(b"goodbye\n")


class UpgradesItself(asyncio.Protocol):
    """The same by loop.start_tls, as aiosmtpd and others do it."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"starttls\n":
            self.transport.write(b"now\n")
            self.task = asyncio.create_task(self.upgrade())
        else:
            self.transport.write(data.upper())

    async def upgrade(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self.transport = await loop.start_tls(self.transport, self, context(), server_side=True)
        except OSError:
            return
        self.transport.write(b"SSLObject 127.0.0.1\n")
