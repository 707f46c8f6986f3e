"""Recognise five styles of handler, and make two shapes of them.

Law: the two shapes are `protocol()`, which reacts and never blocks, and `converse(conn)`, which blocks as it likes and
needs a flow of control of its own. Recognition never guesses: what it looks at is written in the table of styles, and
`--style` overrides it. A handler that can serve nobody is refused: see callables.py.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn import framing as framings
from pronghorn import lifespans
from pronghorn.connection import Connection
from pronghorn.drive import drive
from pronghorn.errors import BadHandler, BadSetting
from pronghorn.framing import Framing
from pronghorn.handlers import callables, loading
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
    patched: bool = False
    """Its import patches the standard library by gevent."""


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
                _meant(source.name) or nearest(source.name, BUILT_IN),
                "Your own are named module:name or path/file.py:name.",
            )
        return recognise(getattr(importlib.import_module("pronghorn.services"), source.name), settings, source.name)
    found = find(source.name)
    if settings.factory:
        found = loading.users(lambda: found(), f"The factory {source.name!r} failed.")
    made = recognise(found, settings, source.name)
    made.facts = msgspec.structs.replace(made.facts, patched=is_patched())
    return made


def is_patched() -> bool:
    """Whether gevent has replaced what the server's own threads and loops are made of, in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and any(monkey.is_module_patched(each) for each in ("socket", "select", "threading"))


def _meant(name: str) -> str:
    file = f"{name.replace('.', os.sep)}.py"
    return f"Did you mean the file {file}?" if os.path.isfile(file) else ""


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
    """Import what `module:name` or `path/file.py:name` says, or the one handler of `path/file.py`."""
    place, attribute = loading.parted(name)
    found = loading.module(place, name)
    return loading.attribute_of(found, place, attribute or loading.the_one(found, place, _tells, _may_be))


def _tells(found: Any) -> bool:
    """Whether an object says by itself that it is a handler."""
    if hasattr(found, FRAMING) or callables.is_protocol(found) or callables.is_handler_class(found):
        return True
    if callables.is_a("socketserver", "BaseServer", found):
        return not isinstance(found, type)
    lead = callables.leads_to(found)
    if callables.is_coroutine_function(lead):
        return callables.fits(found, 2) is not None
    return lead is not found and (callables.is_protocol(lead) or callables.is_handler_class(lead))


def _may_be(found: Any) -> bool:
    return callables.fits(found, 1, 2) is not None and not callables.is_coroutine_function(found)


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
    if not callable(handler) and not callables.is_a("socketserver", "BaseServer", handler):
        hint = (
            "Give the class, of which one is made for each connection." if callables.is_protocol(type(handler)) else ""
        )
        raise BadHandler(f"{name or handler!r} is no handler.", f"It is {handler!r}, which cannot be called.", hint)
    rule = framings.parse(settings.framing) if settings.framing else getattr(handler, FRAMING, None)
    style = settings.style if settings.style != "auto" else style_of(handler, rule)
    name = name or getattr(handler, "__qualname__", repr(handler))
    if style == "program":
        hint = "Give the program as --exec CMD..., the last thing on the line."
        raise BadSetting("--style is 'program', but the handler is none.", f"It is {name or handler!r}.", hint)
    callables.check(handler, style, name)
    if style == "message":
        found = _message(handler, rule or framings.stream, settings, name)
        found.framed = True
        return found
    if rule is not None and settings.framing:
        raise BadSetting(
            f"--framing is {settings.framing!r}, but the handler is of {style} style.", "", "Leave it out."
        )
    if style == "protocol":
        callables.check_factory(handler, name)
        return Handler(Facts(name, style, blocks=False, needs_asyncio=False), protocol=handler)
    if style == "asyncio":
        return _of_asyncio(handler, settings, name)
    from pronghorn.handlers.blocking import call_of

    return Handler(Facts(name, "blocking", blocks=True, needs_asyncio=False), converse=call_of(handler, name))


def style_of(handler: Any, rule: Framing | None) -> str:
    """The table of styles: a framing makes a message handler; then base classes; then coroutine functions; of a
    wrapper, what it leads to."""
    if rule is not None:
        return "message"
    lead = callables.leads_to(handler)
    if isinstance(lead, type) and issubclass(lead, Protocol):
        return "protocol"
    if callables.is_coroutine_function(lead) or callables.is_a("asyncio", "BaseProtocol", lead):
        return "asyncio"
    return "blocking"


def _message(handler: Any, rule: Framing, settings: Settings, name: str) -> Handler:
    made = isinstance(handler, type)
    if made:
        callables.check_call(handler, "message object", name, 0, 1)
        call = functools.partial(handler.__call__, None)
    else:
        call = handler
    callables.check_call(call, "message", name, 1, 2)
    late = callables.is_coroutine_function(callables.leads_to(handler.__call__ if made else handler))
    if late and not made and not callables.is_coroutine_function(handler):
        handler = callables.replying(handler)
    messages = MessageStyle(handler, rule, settings.max_message_size, settings.write_high_water)
    if late:
        from pronghorn.handlers.coroutines import messages_as_streams

        return _asyncio(messages_as_streams(messages), settings, name)
    facts = Facts(name, "message", blocks=False, needs_asyncio=False)
    return Handler(facts, protocol=lambda: MessageProtocol(messages))


def _of_asyncio(handler: Any, settings: Settings, name: str) -> Handler:
    """Of streams, or a factory of protocols: with `--style asyncio` the number of parameters tells which."""
    lead = callables.leads_to(handler)
    if callables.is_coroutine_function(lead) or (
        not callables.is_protocol(lead) and callables.fits(handler, 0, 2) == 2
    ):
        callables.check_call(handler, "asyncio", name, 2)
        return _asyncio(callables.awaiting(handler), settings, name)
    callables.check_factory(handler, name)
    return _asyncio(handler, settings, name, streams=False)


def _asyncio(handler: Any, settings: Settings, name: str, streams: bool = True) -> Handler:
    from pronghorn.handlers.coroutines import OwnLoops, streams_factory

    factory = streams_factory(handler, settings.max_message_size) if streams else handler
    loops = OwnLoops(factory, settings)
    facts = Facts(name, "asyncio", blocks=False, needs_asyncio=True)
    return Handler(facts, protocol=factory, converse=loops.converse, leave=loops.leave)
