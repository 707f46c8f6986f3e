"""Pronghorn: an application server for TCP. You write a handler; any concurrency model serves it.

    import pronghorn

    @pronghorn.message(pronghorn.lines)
    def shout(line: bytes) -> bytes:
        return line.upper()

    if __name__ == "__main__":
        pronghorn.serve(shout, bind="127.0.0.1:8000", model="epoll", workers=2)

Law: importing this file imports nothing else; a public name brings its room along when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pronghorn.errors import (
        AddressInUse,
        BadHandler,
        BadSetting,
        CannotBind,
        IncompatibleHandler,
        MessageTooLong,
        MissingExtra,
        PeerError,
        PeerTimeout,
        PronghornError,
        TooMuchUnsent,
        WorkerFailedToStart,
    )
    from pronghorn.framing import delimited, lines, prefixed, stream
    from pronghorn.handlers.messages import Protocol, message
    from pronghorn.lifespans import current_lifespan, lifespan
    from pronghorn.server import serve
    from pronghorn.serving.adopted import adopt, adopted
    from pronghorn.settings import Settings
    from pronghorn.system.drain import current_drain

__version__ = "0.1.0"

__all__ = [
    "AddressInUse",
    "BadHandler",
    "BadSetting",
    "CannotBind",
    "IncompatibleHandler",
    "MessageTooLong",
    "MissingExtra",
    "PeerError",
    "PeerTimeout",
    "PronghornError",
    "Protocol",
    "Settings",
    "TooMuchUnsent",
    "WorkerFailedToStart",
    "__version__",
    "adopt",
    "adopted",
    "current_drain",
    "current_lifespan",
    "delimited",
    "lifespan",
    "lines",
    "message",
    "prefixed",
    "serve",
    "stream",
]

_ROOMS = {
    "adopt": "serving.adopted",
    "adopted": "serving.adopted",
    "delimited": "framing",
    "lines": "framing",
    "prefixed": "framing",
    "stream": "framing",
    "current_drain": "system.drain",
    "current_lifespan": "lifespans",
    "lifespan": "lifespans",
    "Protocol": "handlers.messages",
    "message": "handlers.messages",
    "serve": "server",
    "Settings": "settings",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
