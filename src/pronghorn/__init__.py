"""Pronghorn: an application server for TCP. You write a handler; any concurrency model serves it.

    import pronghorn

    @pronghorn.message(pronghorn.lines)
    def shout(line: bytes) -> bytes:
        return line.upper()

    if __name__ == "__main__":
        pronghorn.serve(shout, bind="127.0.0.1:8000", model="epoll", workers=2)

Law: importing this file imports nothing else; a public name is imported when it is first used. The public names stand
twice, for type checkers and for Python, and a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pronghorn import bus as bus
    from pronghorn import metrics as metrics
    from pronghorn.connection.blocking import Connection as Connection
    from pronghorn.connection.proxy_protocol import ProxyHeader as ProxyHeader
    from pronghorn.connection.tls_facts import PeerCertificate as PeerCertificate
    from pronghorn.connection.tls_facts import TlsFacts as TlsFacts
    from pronghorn.connection.transport import Transport as Transport
    from pronghorn.errors import AddressInUse as AddressInUse
    from pronghorn.errors import BadHandler as BadHandler
    from pronghorn.errors import BadMessage as BadMessage
    from pronghorn.errors import BadSetting as BadSetting
    from pronghorn.errors import CannotBind as CannotBind
    from pronghorn.errors import End as End
    from pronghorn.errors import IncompatibleHandler as IncompatibleHandler
    from pronghorn.errors import MessageTooLong as MessageTooLong
    from pronghorn.errors import MissingExtra as MissingExtra
    from pronghorn.errors import NotInWorker as NotInWorker
    from pronghorn.errors import PeerError as PeerError
    from pronghorn.errors import PeerTimeout as PeerTimeout
    from pronghorn.errors import PronghornError as PronghornError
    from pronghorn.errors import TooMuchUnsent as TooMuchUnsent
    from pronghorn.errors import WorkerFailedToStart as WorkerFailedToStart
    from pronghorn.framing import Framing as Framing
    from pronghorn.framing import chosen as chosen
    from pronghorn.framing import counted as counted
    from pronghorn.framing import delimited as delimited
    from pronghorn.framing import fixed as fixed
    from pronghorn.framing import lines as lines
    from pronghorn.framing import marked as marked
    from pronghorn.framing import netstring as netstring
    from pronghorn.framing import octet_counted as octet_counted
    from pronghorn.framing import prefixed as prefixed
    from pronghorn.framing import stream as stream
    from pronghorn.framing import varint as varint
    from pronghorn.handlers.message_connection import Conversation as Conversation
    from pronghorn.handlers.message_connection import MessageConnection as MessageConnection
    from pronghorn.handlers.message_timers import Timer as Timer
    from pronghorn.handlers.messages import conversation as conversation
    from pronghorn.handlers.messages import message as message
    from pronghorn.handlers.protocols import Protocol as Protocol
    from pronghorn.handlers.user_observers import Observer as Observer
    from pronghorn.identity import WorkerFacts as WorkerFacts
    from pronghorn.identity import worker as worker
    from pronghorn.lifespans import current_lifespan as current_lifespan
    from pronghorn.lifespans import lifespan as lifespan
    from pronghorn.peers import Peer as Peer
    from pronghorn.server import serve as serve
    from pronghorn.serving.adopted import adopt as adopt
    from pronghorn.serving.adopted import adopted as adopted
    from pronghorn.settings import Settings as Settings
    from pronghorn.settings.keywords import Listener as Listener
    from pronghorn.system.connection_filter import ConnectionFilter as ConnectionFilter
    from pronghorn.system.drain import Drain as Drain
    from pronghorn.system.drain import current_drain as current_drain
    from pronghorn.system.drain import current_log as current_log
    from pronghorn.system.drain import stay as stay
    from pronghorn.tls.certificates import current_tls as current_tls

__version__ = "0.1.0"


def on_first_use(
    package: dict[str, Any], homes: dict[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package (its `globals()`) whose public names are imported when they are used.

    `homes` has the names that are found in each file of the package. The package gets its `__all__`.
    """
    public = {name: home for home, names in homes.items() for name in names.split()}
    package["__all__"] = sorted({*public, *({"__version__"} & package.keys())})

    def get(name: str) -> object:
        if name not in public:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        from importlib import import_module

        found = import_module(f"{package['__name__']}.{public[name]}")
        package[name] = found if public[name] == name else getattr(found, name)
        return package[name]

    return get, lambda: sorted({*package, *public})


if not TYPE_CHECKING:
    __getattr__, __dir__ = on_first_use(
        globals(),
        {
            "bus": "bus",
            "connection.blocking": "Connection",
            "connection.proxy_protocol": "ProxyHeader",
            "connection.tls_facts": "PeerCertificate TlsFacts",
            "connection.transport": "Transport",
            "errors": "AddressInUse BadHandler BadMessage BadSetting CannotBind End IncompatibleHandler MessageTooLong "
            "MissingExtra NotInWorker PeerError PeerTimeout PronghornError TooMuchUnsent WorkerFailedToStart",
            "framing": "Framing chosen counted delimited fixed lines marked netstring octet_counted prefixed stream "
            "varint",
            "handlers.message_connection": "Conversation MessageConnection",
            "handlers.message_timers": "Timer",
            "handlers.messages": "conversation message",
            "handlers.protocols": "Protocol",
            "handlers.user_observers": "Observer",
            "identity": "WorkerFacts worker",
            "lifespans": "current_lifespan lifespan",
            "metrics": "metrics",
            "peers": "Peer",
            "server": "serve",
            "serving.adopted": "adopt adopted",
            "settings": "Settings",
            "settings.keywords": "Listener",
            "system.connection_filter": "ConnectionFilter",
            "system.drain": "Drain current_drain current_log stay",
            "tls.certificates": "current_tls",
        },
    )
