"""Third-party servers that are more than a protocol, or start their server by themselves: each is started in a
lifespan, and what it gives to `create_server` is adopted. docs/libraries.md has the same glue.

Law: as library_handlers.py. A request says how many seconds its answer takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from library_handlers import application

import pronghorn

HERE = "127.0.0.1"


@pronghorn.adopted
async def asyncua() -> AsyncIterator[None]:
    from asyncua import Server, ua, uamethod

    @uamethod
    async def answer(parent: Any, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "kept"

    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:4840/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    kinds = [ua.VariantType.Double], [ua.VariantType.String]
    await server.nodes.objects.add_method(ua.NodeId("answer", 2), ua.QualifiedName("answer", 2), answer, *kinds)
    async with pronghorn.adopt(), server:
        yield


@pronghorn.adopted
async def amqtt() -> AsyncIterator[None]:
    from amqtt.broker import Broker as Library
    from amqtt.plugins.base import BasePlugin

    async def slowly(self: Any, *, client_id: str, message: Any) -> None:
        await asyncio.sleep(float(message.data))

    import library_brokers

    library_brokers.Slowly = type("Slowly", (BasePlugin,), {"on_broker_message_received": slowly})  # type: ignore[attr-defined]
    plugins: dict[str, Any] = {
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
        "library_brokers.Slowly": {},
    }
    config: dict[str, Any] = {"listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:1883"}}, "plugins": plugins}
    broker = Library(config)
    async with pronghorn.adopt():
        await broker.start()
        yield
        await broker.shutdown()


@pronghorn.adopted
async def pymodbus() -> AsyncIterator[None]:
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    async def slowly(code: int, start: int, address: int, count: int, current: Any, values: Any) -> None:
        await asyncio.sleep(start / 10 if start else address / 10)

    device = SimDevice(id=1, simdata=[SimData(0, values=[7] * 100, datatype=DataType.REGISTERS)], action=slowly)
    async with pronghorn.adopt():
        server = ModbusTcpServer(device, address=(HERE, 5020))
        await server.serve_forever(background=True)
        yield
        await server.shutdown()


async def hypercorn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.asyncio.tcp_server import TCPServer
    from hypercorn.asyncio.worker_context import WorkerContext
    from hypercorn.config import Config

    await TCPServer(
        ASGIWrapper(application),  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        Config(),
        WorkerContext(None),
        {},  # type: ignore[arg-type]
        reader,
        writer,
    )


@pronghorn.adopted
async def adopted_websockets() -> AsyncIterator[None]:
    from websockets.asyncio.server import serve

    async def talk(connection: Any) -> None:
        async for message in connection:
            await asyncio.sleep(float(message))
            await connection.send("kept")

    async with pronghorn.adopt(), serve(talk, HERE, 8765):
        yield


@pronghorn.adopted
async def adopted_aiohttp() -> AsyncIterator[None]:
    from aiohttp import web

    async def answer(request: Any) -> Any:
        await asyncio.sleep(float(request.path[1:]))
        return web.Response(text="kept")

    app = web.Application()
    app.router.add_get("/{seconds}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    async with pronghorn.adopt():
        await web.TCPSite(runner, HERE, 8080).start()
        yield
        await runner.cleanup()


@pronghorn.adopted
async def adopted_uvicorn() -> AsyncIterator[None]:
    import uvicorn as library

    config = library.Config(application, lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()
    server = library.Server(config)
    server.lifespan = config.lifespan_class(config)
    async with pronghorn.adopt():
        await server.startup()
        yield
        await server.shutdown()


async def web(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await application(scope, receive, send)


@pronghorn.adopted
async def adopted_hypercorn() -> AsyncIterator[None]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config, over = Config(), asyncio.Event()
    config.bind = [f"{HERE}:0"]
    async with pronghorn.adopt() as adoption:
        task = asyncio.create_task(serve(web, config, shutdown_trigger=over.wait))  # type: ignore[arg-type]
        await adoption.caught()
        yield
        over.set()
        await task


@pronghorn.adopted
async def adopted_grpclib() -> AsyncIterator[None]:
    from library_handlers import _grpclib

    server = _grpclib()
    async with pronghorn.adopt():
        await server.start(HERE, 50051)
        yield
        server.close()
        await server.wait_closed()


@pronghorn.adopted
async def adopted_asyncssh() -> AsyncIterator[None]:
    import asyncssh as library

    class Desk(library.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return False

    async def answer(process: Any) -> None:
        await asyncio.sleep(float(process.command))
        process.stdout.write("kept")
        process.exit(0)

    key = library.generate_private_key("ssh-ed25519")
    async with pronghorn.adopt():
        server = await library.listen(HERE, 8022, server_host_keys=[key], server_factory=Desk, process_factory=answer)
        yield
        server.close()
        await server.wait_closed()


@pronghorn.adopted
async def adopted_aioftp() -> AsyncIterator[None]:
    import aioftp as library
    from library_handlers import slow_files

    server = library.Server(path_io_factory=slow_files())
    async with pronghorn.adopt():
        await server.start(HERE, 2121)
        yield
        await server.close()
