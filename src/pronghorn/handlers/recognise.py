"""Recognition: which of five styles a handler object follows, and the two shapes that are made of it.

Law: recognition never guesses: `style_of` is the table of styles, and `--style` overrides it. A handler that could
serve no client is refused (refusals.py). Nothing is called to find out what it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn import framing as framings
from pronghorn import lifespans
from pronghorn.connection.blocking import Connection
from pronghorn.errors import BadHandler, BadSetting
from pronghorn.framing import Framing
from pronghorn.handlers import callables, refusals
from pronghorn.handlers.handler import HOLDS, Handler, HandlerFacts
from pronghorn.handlers.message_connection import Conversation
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.handlers.messages import CONVERSATION, FRAMING, MessageStyle
from pronghorn.handlers.plain_conversations import PlainConversations
from pronghorn.handlers.protocols import Protocol
from pronghorn.lifespans import Lifespan
from pronghorn.scoreboard.message_rates import MessageRate
from pronghorn.scoreboard.service_times import sampler
from pronghorn.settings import Settings


def is_marked(found: Any) -> bool:
    """Whether an object is a handler by what it is: by its framing, its base class, or as a coroutine function."""
    if hasattr(found, FRAMING) or callables.is_protocol(found) or callables.is_handler_class(found):
        return True
    if callables.is_a("socketserver", "BaseServer", found):
        return not isinstance(found, type)
    lead = callables.leads_to(found)
    if callables.is_coroutine_function(lead):
        return callables.fits(found, 2) is not None
    return lead is not found and (callables.is_protocol(lead) or callables.is_handler_class(lead))


def could_be(found: Any) -> bool:
    """Whether an object can be called as a blocking handler or a message function."""
    return callables.fits(found, 1, 2) is not None and not callables.is_coroutine_function(found)


def recognise(handler: Any, settings: Settings, name: str = "") -> Handler:
    """The handler that an object is, in its two shapes. Raises BadHandler or BadSetting."""
    if isinstance(handler, Handler):
        return handler
    found = _recognised(handler, settings, name)
    factory = getattr(handler, lifespans.MARK, None)
    if factory is None:  # a server object of socketserver has that of its handler class
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
    refusals.check(handler, style, name)
    if style == "message":
        return _message(handler, rule or framings.stream, settings, name)
    if rule is not None and settings.framing:
        raise BadSetting(
            f"--framing is {settings.framing!r}, but the handler is of {style} style.", "", "Leave it out."
        )
    if style == "protocol":
        refusals.check_factory(handler, name)
        return Handler(HandlerFacts(name, style, moves=True), protocol=handler, made=handler)
    if style == "asyncio":
        return _of_asyncio(handler, settings, name)
    from pronghorn.handlers.blocking import call_of

    return Handler(HandlerFacts(name, "blocking"), converse=call_of(handler, name))


def style_of(handler: Any, rule: Framing[Any] | None) -> str:
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


def _message(handler: Any, rule: Framing[Any], settings: Settings, name: str) -> Handler:
    limits = settings.max_message_size, settings.write_high_water
    rate = MessageRate(settings.message_rate_per_source) if settings.message_rate_per_source else None
    if getattr(handler, CONVERSATION, False):
        from pronghorn.handlers.conversations import conversation_as_streams

        refusals.check_call(handler, "conversation", name, 1)
        style = MessageStyle(handler, rule, *limits, Conversation)
        style.rate = rate
        return _asyncio(conversation_as_streams(style, handler), settings, name, framing=rule)
    made = isinstance(handler, type)
    if made:
        refusals.check_call(handler, "message object", name, 0, 1)
        refusals.check_hooks(handler, name)
        call = functools.partial(handler.__call__, None)
    else:
        call = handler
    refusals.check_call(call, "message", name, 1, 2)
    methods = [handler.__call__, *(getattr(handler, each, None) for each in refusals.HOOKS)] if made else [handler]
    awaits, *others = [callable(each) and callables.is_coroutine_function(callables.leads_to(each)) for each in methods]
    if not (awaits or any(others)):
        messages = MessageStyle(handler, rule, *limits)
        messages.alone = messages.alone and rate is None
        facts, protocol = HandlerFacts(name, "message", moves=True), _protocol(messages, rate)
        plain = messages.alone and not made and rate is None and sampler() is None
        hold = _held_plainly(messages, handler, protocol) if plain else None
        return Handler(facts, protocol=protocol, converse=hold, framing=rule, made=handler, plain=plain)
    from pronghorn.handlers.conversations import messages_as_streams

    if not made and not callables.is_coroutine_function(handler):
        handler = callables.replying(handler)
    messages = MessageStyle(handler, rule, *limits, Conversation)
    messages.rate = rate
    found = _asyncio(messages_as_streams(messages, awaits), settings, name, framing=rule)
    if rate is None:  # else a message that waits for its turn would be left behind
        found.made, found.facts = handler, msgspec.structs.replace(found.facts, moves=True)
    return found


def _held_plainly(
    style: MessageStyle, function: Callable[[Any], Any], make: Callable[[], MessageProtocol]
) -> Callable[[Connection], None] | None:
    """What holds conversations without a protocol, where the framing allows that."""
    conversations = PlainConversations(style, function, make)
    return conversations.hold if conversations.fits else None


def _protocol(style: MessageStyle, rate: MessageRate | None) -> Callable[[], MessageProtocol]:
    """What makes the protocol of a connection: chosen once, so that what is not used costs no message anything."""
    kind: type[Any] = MessageProtocol
    if rate is not None:
        from pronghorn.handlers.paced_messages import PacedProtocol as kind  # here: few servers have a rate
    if (timer := sampler()) is not None:
        from pronghorn.handlers.timed_messages import timed

        kind = timed(kind, timer)
    make: Callable[..., MessageProtocol] = kind
    return functools.partial(make, style) if rate is None else functools.partial(make, style, rate)


def _of_asyncio(handler: Any, settings: Settings, name: str) -> Handler:
    """A handler of streams, or a factory of protocols: with `--style asyncio` by the number of its parameters."""
    lead = callables.leads_to(handler)
    if callables.is_coroutine_function(lead) or (
        not callables.is_protocol(lead) and callables.fits(handler, 0, 2) == 2
    ):
        refusals.check_call(handler, "asyncio", name, 2)
        return _asyncio(callables.awaiting(handler), settings, name)
    refusals.check_factory(handler, name)
    return _asyncio(handler, settings, name, streams=False)


def _asyncio(
    handler: Any, settings: Settings, name: str, *, streams: bool = True, framing: Framing[Any] | None = None
) -> Handler:
    from pronghorn.handlers.coroutines import OwnLoops, streams_factory

    factory = streams_factory(handler, settings.max_message_size) if streams else handler
    loops = OwnLoops(factory, settings)
    facts = HandlerFacts(name, "asyncio")
    holds = getattr(handler, HOLDS, None)
    return Handler(facts, protocol=factory, converse=loops.converse, leave=loops.leave, framing=framing, holds=holds)
