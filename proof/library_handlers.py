"""Third-party servers as handlers, each with two lines or so of glue. A request says how many seconds its answer takes.

Law: every library is imported where it is used, so that one that is not installed costs the others nothing.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pronghorn


class Adopted:
    """What a library gives to `create_server`, where it makes no difference which loop is asked."""

    sockets: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.factory: Callable[[], Any] | None = None

    async def create_server(self, factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Adopted:
        self.factory = factory
        return self

    def is_serving(self) -> bool:
        return True

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass

    async def start_serving(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)


def aiosmtpd() -> Any:
    from aiosmtpd.smtp import SMTP

    class Desk:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            await asyncio.sleep(float(envelope.content.split()[-1]))
            return "250 kept"

    return SMTP(Desk(), enable_SMTPUTF8=True)


@functools.cache
def _aiohttp() -> Any:
    from aiohttp import web

    async def answer(request: Any) -> Any:
        await asyncio.sleep(float(request.path[1:]))
        return web.Response(text="kept")

    return web.Server(answer)


def aiohttp() -> Any:
    return _aiohttp()()


async def application(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(float(scope["path"][1:]))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"kept"})


@functools.cache
def _uvicorn(name: str) -> Callable[[], Any]:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    config, state = Config(application, http=name, lifespan="off", log_config=None), ServerState()  # type: ignore[arg-type]
    config.load()
    return lambda: config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg, operator]


def uvicorn_h11() -> Any:
    return _uvicorn("h11")()


def uvicorn_httptools() -> Any:
    return _uvicorn("httptools")()


class Plain:
    """A codec of grpclib for bytes as they are."""

    __content_subtype__ = "plain"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


@functools.cache
def _grpclib() -> Any:
    from grpclib.const import Cardinality, Handler
    from grpclib.server import Server

    class Desk:
        async def answer(self, stream: Any) -> None:
            await asyncio.sleep(float(await stream.recv_message()))
            await stream.send_message(b"kept")

        def __mapping__(self) -> dict[str, Any]:
            return {"/desk/Answer": Handler(self.answer, Cardinality.UNARY_UNARY, bytes, bytes)}

    return Server([Desk()], codec=Plain())  # type: ignore[list-item, arg-type]


def grpclib() -> Any:
    return _grpclib()._protocol_factory()


@functools.cache
def _sanic() -> Any:
    from sanic import Sanic, response

    app = Sanic("desk", configure_logging=False)

    @app.get("/<seconds:float>")
    async def answer(request: Any, seconds: float) -> Any:
        await asyncio.sleep(seconds)
        return response.text("kept")

    app.finalize()
    app.signalize(False)
    return app


def sanic() -> Any:
    from sanic.server.protocols.http_protocol import HttpProtocol

    return HttpProtocol(loop=asyncio.get_running_loop(), app=_sanic())


class Websockets:
    """The library's own factory, and its own words at the end: 1001, going away."""

    factory: Any = None

    async def talk(self, connection: Any) -> None:
        async for message in connection:
            await asyncio.sleep(float(message))
            await connection.send("kept")

    def __call__(self) -> Any:
        from websockets.asyncio.server import Server, ServerConnection
        from websockets.server import ServerProtocol

        if self.factory is None:
            self.factory = Server(self.talk)
            self.factory.loop = asyncio.get_running_loop()
            self.factory.server = Adopted()
        return ServerConnection(ServerProtocol(), self.factory)


websockets = Websockets()


class AsyncSsh:
    """Adopted: its listener is asked for the factory."""

    factory: Any = None

    async def answer(self, process: Any) -> None:
        await asyncio.sleep(float(process.command))
        process.stdout.write("kept")
        process.exit(0)

    def __call__(self) -> Any:
        return self.factory()

    async def adopt(self) -> None:
        import asyncssh

        class Desk(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return False

        adopted: Any = Adopted()
        key = asyncssh.generate_private_key("ssh-ed25519")
        loop = asyncio.get_running_loop()
        create = loop.create_server
        loop.create_server = adopted.create_server  # type: ignore[method-assign, assignment]
        try:
            await asyncssh.listen(
                "127.0.0.1", 0, server_host_keys=[key], server_factory=Desk, process_factory=self.answer
            )
        finally:
            loop.create_server = create  # type: ignore[method-assign]
        self.factory = adopted.factory


_ssh = AsyncSsh()


async def adopted_ssh() -> Any:
    await _ssh.adopt()
    yield


asyncssh = pronghorn.lifespan(adopted_ssh)(_ssh)


@functools.cache
def slow_files() -> Any:
    import aioftp as library

    class Slowly(library.PathIO):
        """Files that are as large as their names say, and take their time."""

        async def exists(self, path: Any) -> bool:
            return True

        async def is_file(self, path: Any) -> bool:
            return True

        async def is_dir(self, path: Any) -> bool:
            return path.name == ""

        async def _open(self, path: Any, *args: Any, **kwargs: Any) -> Any:
            return [b"kept" * 2048] * 64, float(path.name) / 64

        async def seek(self, file: Any, *args: Any, **kwargs: Any) -> None:
            pass

        async def read(self, file: Any, *args: Any, **kwargs: Any) -> bytes:
            await asyncio.sleep(file[1])
            return file[0].pop() if file[0] else b""

        async def close(self, file: Any) -> None:
            pass

    return Slowly


@functools.cache
def _aioftp() -> Any:
    import aioftp as library

    server = library.Server(path_io_factory=slow_files())
    server.server_host, server.connections = "127.0.0.1", {}
    server._start_server_extra_arguments = {}
    return server


async def aioftp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    server = _aioftp()
    server.server_port = writer.get_extra_info("sockname")[1]
    await server.dispatcher(reader, writer)
