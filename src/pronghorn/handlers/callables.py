"""Callables: what a wrapper calls in the end, with how many arguments a handler can be called, what is refused.

Law: a wrapper is followed as far as it says what it wraps: functools.partial, functools.wraps, a lambda that calls one
thing. Nothing is called to find out. A handler that cannot work with any client is refused here, with the reason and
the mend; a callable without a signature is let through.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import LambdaType
from typing import Any

from pronghorn.errors import BadHandler
from pronghorn.handlers.messages import Protocol

# Names of functions that call a coroutine function and wait for it.
RUNNERS = frozenset({"run", "run_until_complete", "async_to_sync"})
CALLED_WITH = {
    "message": "the message, or the message and the connection",
    "blocking": "the connection, or the connection and the peer's address",
    "asyncio": "a reader and a writer",
    "message object": "nothing, or the connection, and made for each",
    "socketserver": "the request, the client's address and the server",
}


def is_a(module: str, base: str, handler: Any) -> bool:
    """Whether an object is, or is a class, of a base that only exists if its module was imported."""
    kind = getattr(sys.modules.get(module), base, None)
    if kind is None:
        return False
    return isinstance(handler, kind) or (isinstance(handler, type) and issubclass(handler, kind))


def is_coroutine_function(handler: Any) -> bool:
    if isinstance(handler, type):
        return False
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def is_protocol(handler: Any) -> bool:
    """Whether it is a class of protocols, of ours or of asyncio's."""
    return isinstance(handler, type) and (issubclass(handler, Protocol) or is_a("asyncio", "BaseProtocol", handler))


def is_handler_class(handler: Any) -> bool:
    """Whether it is one of socketserver's handler classes."""
    return isinstance(handler, type) and is_a("socketserver", "BaseRequestHandler", handler)


def leads_to(handler: Any) -> Any:
    """What a wrapper calls in the end, if it says so; the handler itself if it is no wrapper."""
    seen = 0
    while not isinstance(handler, type) and not is_coroutine_function(handler) and seen < 32:
        seen += 1
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif isinstance(handler, LambdaType) and handler.__name__ == "<lambda>":
            return _called_by(handler)
        elif callable(wrapped := _wrapped(handler)) and is_coroutine_function(leads_to(wrapped)):
            handler = wrapped
        else:
            break
    return handler


def _wrapped(handler: Any) -> Any:
    """What functools.wraps has noted of a function or method."""
    facts = getattr(getattr(handler, "__func__", handler), "__dict__", None)
    return facts.get("__wrapped__") if isinstance(facts, dict) else None


def _called_by(function: LambdaType) -> Any:
    """What a lambda calls, if that has a style of its own and the lambda has the parameters of that style."""
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    for name in (*code.co_names, *code.co_freevars):
        called = function.__globals__.get(name)
        if name in cells:
            try:
                called = cells[name].cell_contents
            except ValueError:  # not set yet
                continue
        called = leads_to(called) if called is not function else None
        if is_protocol(called) and fits(function, 0) is not None:
            return called
        if is_handler_class(called) and fits(function, 3):
            return called
        if is_coroutine_function(called) and fits(function, 2) and RUNNERS.isdisjoint(code.co_names):
            return called
    return function


def fits(function: Callable[..., Any], *counts: int) -> int | None:
    """The first of `counts` that is a number of positional arguments it can be called with; None if none is. A callable
    without a signature is taken to fit the first."""
    told = False
    for follow in (True, False):  # a decorator may add an argument of its own
        try:
            signature = inspect.signature(function, follow_wrapped=follow)
        except TypeError:
            continue
        except ValueError as error:  # it tells nothing; or it is a partial that has been given too much
            told = told or "incorrect arguments" in str(error)
            continue
        told = True
        for count in counts:
            try:
                signature.bind(*[None] * count)
            except TypeError:
                continue
            return count
    return None if told else counts[0]


def required(function: Callable[..., Any]) -> list[str]:
    """The names of the parameters that have to be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in parameters if each.default is each.empty and each.kind not in (2, 4)]


def check(handler: Any, style: str, name: str) -> None:
    """Raises BadHandler for what cannot be served, whatever its style may be."""
    names = required(handler)
    what = f"{name!r} cannot be served."
    if is_a("asyncio", "DatagramProtocol", handler) and not is_a("asyncio", "Protocol", handler):
        raise BadHandler(
            what, "It is a protocol of datagrams, and UDP is not served.", "Derive it from asyncio.Protocol."
        )
    if isinstance(handler, type) and is_a("socketserver", "BaseServer", handler):
        raise BadHandler(
            what,
            "It is a class of servers, and a handler is wanted.",
            "Name its handler class, or make an object: server = Server(address, Handler, bind_and_activate=False).",
        )
    if names[-3:] == ["scope", "receive", "send"]:
        raise BadHandler(
            what,
            "It is an ASGI application, which wants HTTP requests; here it would be given TCP connections.",
            "Serve it with an HTTP server, such as uvicorn, hypercorn or granian.",
        )
    if names == ["environ", "start_response"]:
        raise BadHandler(
            what,
            "It is a WSGI application, which wants HTTP requests; here it would be given TCP connections.",
            "Serve it with an HTTP server such as gunicorn, or name a wsgiref.simple_server.WSGIServer that has it.",
        )
    if style == "blocking" and names == ["reader", "writer"]:
        raise BadHandler(
            what,
            "It takes a reader and a writer, as asyncio's streams have them, and is no coroutine function.",
            "Make it an async def; if it begins a task, as a callback of start_server may: --style asyncio.",
        )
    if style == "blocking" and isinstance(handler, type) and hasattr(handler, "connection_made"):
        raise BadHandler(
            what,
            "It has a protocol's connection_made(), and no base class that says whose protocol it is.",
            "Derive it from pronghorn.Protocol or asyncio.Protocol, or say it: --style protocol, --style asyncio.",
        )


def check_factory(handler: Any, name: str) -> None:
    """Raises BadHandler unless it makes a protocol without being given anything."""
    if fits(handler, 0) is None:
        wants = ", ".join(required(handler)) or "arguments"
        raise BadHandler(
            f"{name!r} cannot make a protocol for a connection.",
            f"It wants {wants}, and is called without anything.",
            "Give it what it wants: functools.partial(Class, ...), or a lambda, under a name of its own.",
        )


def check_call(handler: Any, style: str, name: str, *counts: int) -> int:
    """With how many arguments to call it, of `counts`. Raises BadHandler if it cannot be called so, or if its call
    would only make a generator, or a coroutine that nobody awaits."""
    called = leads_to(handler)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise BadHandler(
            f"{name!r} cannot be served.",
            "It is a generator function: to call it does not run it.",
            "Have it send what it yields; or is it a lifespan? That is put on a handler: @pronghorn.lifespan(...).",
        )
    if style == "blocking" and is_coroutine_function(called):
        raise BadHandler(f"{name!r} does not block.", "It is a coroutine function.", "Leave out --style blocking.")
    count = fits(handler, *counts)
    if count is not None:
        return count
    names = required(handler)
    wants = f"It wants {', '.join(names)}" if names else "It takes no argument"
    hint = f"Give it the parameters that a handler of {style} style has; see --style for others."
    if fits(handler, 0) is not None and style == "blocking":
        hint = "If it makes the handler, say so: --factory. If it makes a protocol: --style asyncio."
    elif style == "asyncio" and len(names) == 1:
        hint = "async def handler(reader, writer); or, if it answers messages, @pronghorn.message(pronghorn.lines)."
    raise BadHandler(
        f"{name!r} cannot be called as a handler of {style} style.", f"{wants}; it is given {CALLED_WITH[style]}.", hint
    )


def awaiting(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function of a callable that returns something to await, maybe. One of streams that returns nothing,
    as a plain callback of asyncio.start_server does, has its connection until it closes that."""
    if is_coroutine_function(handler):
        return handler

    async def call(reader: Any, writer: Any) -> None:
        found = handler(reader, writer)
        if inspect.isawaitable(found):
            await found
        else:
            await writer.wait_closed()

    return call


def replying(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a message function."""

    @functools.wraps(handler)
    async def call(*args: Any) -> Any:
        found = handler(*args)
        return await found if inspect.isawaitable(found) else found

    return call
