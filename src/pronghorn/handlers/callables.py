"""Callables: what a wrapper calls in the end, and with how many arguments a handler can be called.

Law: a wrapper is followed as far as it says what it wraps: functools.partial, functools.wraps, a lambda that calls one
thing. Nothing is called to find out.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import LambdaType
from typing import Any

from pronghorn.handlers.protocols import Protocol

# Names of functions that call a coroutine function and wait for it.
RUNNERS = frozenset({"run", "run_until_complete", "async_to_sync"})


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
