"""Recognise five styles of handler, and make two shapes of them.

Law: the two shapes are `protocol()`, which reacts and never blocks, and `converse(conn)`, which blocks as it likes and
needs a flow of control of its own. Recognition never guesses: what it looks at is written in the table of styles, and
`--style` overrides it. User code is imported here and nowhere else, in the probe and in workers only.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn import framing as framings
from pronghorn import lifespans, tracebacks
from pronghorn.connection import Connection
from pronghorn.drive import drive
from pronghorn.errors import BadHandler, BadSetting
from pronghorn.framing import Framing
from pronghorn.handlers.messages import FRAMING, MessageProtocol, MessageStyle, Protocol, message
from pronghorn.lifespans import Lifespan
from pronghorn.settings import Settings, nearest
from pronghorn.settings.source import Source

__all__ = ["Facts", "Handler", "Protocol", "Source", "load", "message", "program", "recognise"]


BUILT_IN = ("upper", "echo", "discard", "chargen", "daytime")


class Facts(msgspec.Struct, frozen=True):
    """What has to be known of a handler before anything is bound; small enough for a pipe."""

    name: str
    style: str
    blocks: bool
    """It needs a flow of control of its own."""
    needs_asyncio: bool
    lifespan: str = ""
    """The kind of its lifespan, "sync" or "async"; empty if it has none."""


class Handler:
    """A handler in both shapes. One that `blocks` has no `protocol`; the others have both."""

    lifespan: Lifespan | None = None
    framed = False
    """A framing cuts its input into messages."""

    def __init__(
        self,
        facts: Facts,
        *,
        protocol: Callable[[], Any] | None = None,
        converse: Callable[[Connection], None] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        self.facts = facts
        self._protocol = protocol
        self._converse = converse
        self._leave = leave

    def protocol(self) -> Any:
        """A new protocol for one connection; of asyncio's styles only inside a running loop."""
        assert self._protocol is not None, "a blocking handler has no protocol"
        return self._protocol()

    def converse(self, conn: Connection) -> None:
        """Hold one whole conversation, blocking; what the handler raises passes through."""
        if self._converse is not None:
            self._converse(conn)
        else:
            protocol = self.protocol()
            if isinstance(protocol, MessageProtocol):
                conn.partial = lambda: protocol.partial
            else:
                conn.partial = _never
                tell = getattr(type(protocol), "draining", None)
                conn.hears_drain = tell not in (None, Protocol.draining)  # it may want to stay
            drive(protocol, conn)

    def leave(self) -> None:
        """A flow of control that held conversations ends."""
        if self._leave is not None:
            self._leave()


def _never() -> bool:
    return False


def load(source: Source, settings: Settings) -> Handler:
    """The handler that `source` names, imported and recognised. Raises BadHandler or BadSetting."""
    _refuse_idle_settings(source, settings)
    if source.command:
        return program(source.command)
    if not source.is_users_code:
        if source.name not in BUILT_IN:
            raise BadHandler(
                f"There is no built-in handler {source.name!r}.",
                nearest(source.name, BUILT_IN),
                "Your own are named module:name or path/file.py:name.",
            )
        return recognise(getattr(importlib.import_module("pronghorn.services"), source.name), settings, source.name)
    found = find(source.name)
    if settings.factory:
        found = _users(lambda: found(), f"The factory {source.name!r} failed.")
    return recognise(found, settings, source.name)


def _refuse_idle_settings(source: Source, settings: Settings) -> None:
    """Raises BadSetting for what would have no effect: whoever gave it expects one."""
    style, name = settings.style, " ".join(source.command)
    if source.command and style not in ("auto", "program"):
        raise BadSetting(f"--style is {style!r}, but {name!r} is a program.", "", "Leave out --style, or --exec.")
    if source.command and settings.framing:
        why = "It has the bytes of the connection as they come, and answers with bytes."
        raise BadSetting(f"--framing is {settings.framing!r}, but {name!r} is a program.", why, "Leave it out.")
    if settings.factory and not source.is_users_code:
        what = f"{name!r} is a program." if name else f"{source.name!r} is built in."
        raise BadSetting(f"--factory is set, but {what}", "There is nothing to call.", "Leave it out.")


def program(command: tuple[str, ...]) -> Handler:
    """A handler that runs a program for each connection."""
    from pronghorn.handlers import programs

    whole = programs.found(command)
    facts = Facts(" ".join(command), "program", blocks=True, needs_asyncio=False)
    return Handler(facts, converse=lambda conn: programs.run(whole, conn))


def find(name: str) -> Any:
    """Import what `module:name` or `path/file.py:name` says; dots in the name reach into objects."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise BadHandler(f"{name!r} names no handler.", hint="Write module:name or path/file.py:name.")
    is_path = place.endswith(".py") or os.sep in place
    found = _users(
        lambda: _module_at(place) if is_path else importlib.import_module(place), f"{name!r} failed to import."
    )
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [each for each in vars(found) if not each.startswith("_")] if hasattr(found, "__dict__") else []
            hint = nearest(part, public) if public else ""
            raise BadHandler(f"{place!r} has no {part!r}.", f"It was asked for as {name!r}.", hint)
        found = getattr(found, part)
    return found


def _module_at(path: str) -> Any:
    if not os.path.isfile(path):
        raise BadHandler(f"There is no file {path!r}.", f"The working folder is {os.getcwd()!r}.")
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that it finds its neighbours, as under `python path/file.py`
    name = os.path.splitext(os.path.basename(path))[0]
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == os.path.abspath(path):
        return known
    spec = importlib.util.spec_from_file_location(name, os.path.abspath(path))
    if spec is None or spec.loader is None:
        raise BadHandler(f"{path!r} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _users(call: Callable[[], Any], what: str) -> Any:
    """Call the user's code: whatever it raises, SystemExit included, is told as its own fault, with its own frames."""
    try:
        return call()
    except BadHandler:
        raise
    except BaseException as error:
        raise BadHandler(what, tracebacks.of_users(error), "Mend that; the handler is imported from here.") from None


def recognise(handler: Any, settings: Settings, name: str = "") -> Handler:
    """Say which of the five styles an object follows, and make its two shapes. Raises BadHandler or BadSetting."""
    if isinstance(handler, Handler):
        return handler
    found = _recognised(handler, settings, name)
    factory = getattr(handler, lifespans.MARK, None)
    if factory is None:  # socketserver's object is given its class's
        factory = getattr(getattr(handler, "RequestHandlerClass", None), lifespans.MARK, None)
    if factory is not None:
        found.lifespan = Lifespan(factory)
        found.facts = msgspec.structs.replace(found.facts, lifespan=found.lifespan.kind)
    return found


def _recognised(handler: Any, settings: Settings, name: str) -> Handler:
    if not callable(handler) and not _is_a("socketserver", "BaseServer", handler):
        raise BadHandler(f"{name or handler!r} is no handler.", f"It is {handler!r}, which cannot be called.")
    rule = framings.parse(settings.framing) if settings.framing else getattr(handler, FRAMING, None)
    style = settings.style if settings.style != "auto" else style_of(handler, rule)
    name = name or getattr(handler, "__qualname__", repr(handler))
    if style == "program":
        hint = "Give the program as --exec CMD..., the last thing on the line."
        raise BadSetting("--style is 'program', but the handler is none.", f"It is {name or handler!r}.", hint)
    if style == "message":
        found = _message(handler, rule or framings.stream, settings, name)
        found.framed = True
        return found
    if rule is not None and settings.framing:
        raise BadSetting(
            f"--framing is {settings.framing!r}, but the handler is of {style} style.", "", "Leave it out."
        )
    if style == "protocol":
        return Handler(Facts(name, style, blocks=False, needs_asyncio=False), protocol=handler)
    if style == "asyncio":
        return _asyncio(handler, settings, name)
    from pronghorn.handlers.blocking import call_of

    return Handler(Facts(name, "blocking", blocks=True, needs_asyncio=False), converse=call_of(handler))


def style_of(handler: Any, rule: Framing | None) -> str:
    """The table of styles: a framing makes a message handler; then base classes; then coroutine functions."""
    if rule is not None:
        return "message"
    if isinstance(handler, type) and issubclass(handler, Protocol):
        return "protocol"
    if _is_coroutine_function(handler) or _is_a("asyncio", "BaseProtocol", handler):
        return "asyncio"
    return "blocking"


def _message(handler: Any, rule: Framing, settings: Settings, name: str) -> Handler:
    messages = MessageStyle(handler, rule, settings.max_message_size, settings.write_high_water)
    if _is_coroutine_function(handler.__call__ if isinstance(handler, type) else handler):
        from pronghorn.handlers.coroutines import messages_as_streams

        return _asyncio(messages_as_streams(messages), settings, name)
    facts = Facts(name, "message", blocks=False, needs_asyncio=False)
    return Handler(facts, protocol=lambda: MessageProtocol(messages))


def _asyncio(handler: Any, settings: Settings, name: str) -> Handler:
    from pronghorn.handlers.coroutines import OwnLoops, streams_factory

    factory = handler
    if _is_coroutine_function(handler):
        factory = streams_factory(handler, settings.max_message_size)
    loops = OwnLoops(factory, settings)
    facts = Facts(name, "asyncio", blocks=False, needs_asyncio=True)
    return Handler(facts, protocol=factory, converse=loops.converse, leave=loops.leave)


def _is_coroutine_function(handler: Any) -> bool:
    if isinstance(handler, type):
        return False
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def _is_a(module: str, base: str, handler: Any) -> bool:
    """Whether an object is, or is a class, of a base that only exists if its module was imported."""
    known = sys.modules.get(module)
    if known is None:
        return False
    return isinstance(handler, getattr(known, base)) or (
        isinstance(handler, type) and issubclass(handler, getattr(known, base))
    )
