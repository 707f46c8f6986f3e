"""Third-party servers that are more than a protocol: a broker, a device, an object server. Each is started in a
lifespan, and what it gives to `create_server` is served.

Law: as library_handlers.py. A request says how many seconds its answer takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from library_handlers import Adopted, application

import pronghorn


class Broker:
    """A factory that is known once `start`, called in the lifespan, has led to the library's create_server."""

    def __init__(self) -> None:
        self.factory: Any = None

    def __call__(self) -> Any:
        return self.factory()

    async def adopt(self, start: Callable[[], Awaitable[Any]]) -> None:
        loop, adopted = asyncio.get_running_loop(), Adopted()
        create = loop.create_server
        loop.create_server = adopted.create_server  # type: ignore[method-assign, assignment]
        try:
            await start()
        finally:
            loop.create_server = create  # type: ignore[method-assign]
        self.factory = adopted.factory


_opcua, _mqtt, _modbus = Broker(), Broker(), Broker()


async def _lives_opcua() -> AsyncIterator[None]:
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
    await _opcua.adopt(server.start)
    yield
    await server.stop()


asyncua = pronghorn.lifespan(_lives_opcua)(_opcua)


async def _lives_mqtt() -> AsyncIterator[None]:
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
    await _mqtt.adopt(broker.start)
    yield
    await broker.shutdown()


amqtt = pronghorn.lifespan(_lives_mqtt)(_mqtt)


async def _lives_modbus() -> AsyncIterator[None]:
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    async def slowly(code: int, start: int, address: int, count: int, current: Any, values: Any) -> None:
        await asyncio.sleep(start / 10 if start else address / 10)

    device = SimDevice(id=1, simdata=[SimData(0, values=[7] * 100, datatype=DataType.REGISTERS)], action=slowly)
    server = ModbusTcpServer(device)
    _modbus.factory = server.callback_new_connection
    yield


pymodbus = pronghorn.lifespan(_lives_modbus)(_modbus)


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
