"""Handlers that could serve no client: each is refused, with the reason and what to do next.

Law: nothing is called to find out. A callable without a signature is let through.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from pronghorn.errors import BadHandler
from pronghorn.handlers.callables import fits, is_a, is_coroutine_function, leads_to, required

CALLED_WITH = {
    "message": "the message, or the message and the connection",
    "blocking": "the connection, or the connection and the peer's address",
    "asyncio": "a reader and a writer",
    "message object": "nothing, or the connection, and made for each",
    "conversation": "the connection",
    "socketserver": "the request, the client's address and the server",
}


HOOKS = {"connected": (0, 1), "closed": (1, 2)}
"""What a class of message handlers may have beside `__call__`, and with how many arguments it is called."""


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


def check_hooks(handler: type, name: str) -> None:
    """Raises BadHandler if a class of message handlers has a `connected` or `closed` that cannot be called as such."""
    given = {"connected": "nothing, or the connection", "closed": "the reason, or the reason and the connection"}
    for hook, counts in HOOKS.items():
        method = getattr(handler, hook, None)
        if callable(method) and fits(functools.partial(method, None), *counts) is None:
            raise BadHandler(
                f"{name!r} has a {hook}() that cannot be called.",
                f"It wants {', '.join(required(method)[1:])}; it is given {given[hook]}.",
                f"Give it these parameters; or another name, if it is not meant to be called when a connection is "
                f"{hook}.",
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
    would only make a generator, or a coroutine that is never awaited."""
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
