"""`lifespan`: what a handler sets up once per worker and takes down after its drain (a database pool, a table, a task).

Law: one per worker, entered before the worker is ready and left after its drain; children of the fork model have the
value that it yielded and never leave it. That value is a global of the process, so that it costs a connection nothing.
An async lifespan lives on the worker's own asyncio loop. Nothing here knows models, which decide whether they enter an
async one.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeVar

from pronghorn import tracebacks
from pronghorn.errors import WorkerFailedToStart

MARK = "__pronghorn_lifespan__"
SYNC, ASYNC = "sync", "async"
T = TypeVar("T")
Factory = Callable[
    [],
    Iterator[object] | AsyncIterator[object] | AbstractContextManager[object] | AbstractAsyncContextManager[object],
]
"""What makes a lifespan: see `lifespan`."""

_value: Any = None
_of_listeners: dict[str, Lifespan | None] = {}
"""The lifespan of each listener's handler, by the listener's name; empty where all have the same."""
serving_at: ContextVar[str] = ContextVar("pronghorn_serving_at", default="")
"""The name of the listener whose connection the running code serves; empty elsewhere."""


def current_lifespan() -> Any:
    """What the lifespan of this worker's handler yielded; None outside of it, or if the handler has none.

    For handlers that see no connection object, and for code that they call: `conn.lifespan` is the same. Where
    listeners have handlers with lifespans of their own, it is that of the connection that the caller serves.
    """
    return lifespan_at(serving_at.get()) if _of_listeners else _value


def lifespan_at(listener: str) -> Any:
    """What the lifespan yielded that the handler of this listener has."""
    if listener not in _of_listeners:
        return _value
    own = _of_listeners[listener]
    return None if own is None else own.value


def tell_apart(of_listeners: dict[str, Lifespan | None]) -> None:
    """From now on each listener has the value of its handler's lifespan."""
    _of_listeners.update(of_listeners)


def are_told_apart() -> bool:
    """Whether listeners have lifespans of their own."""
    return bool(_of_listeners)


def lifespan(factory: Factory) -> Callable[[T], T]:
    """Give a handler of any style a lifespan: `factory()` makes a context manager, sync or async.

    It is a generator function with one `yield` (`def` or `async def`, decorated by contextlib or not), or a class with
    `__enter__` or `__aenter__`. Each worker enters it before it is ready and leaves it after its drain; what it yields
    is `conn.lifespan`, and `current_lifespan()`. A worker whose lifespan raises, or is not entered within
    `start_timeout`, is not ready. TypeError if it is neither, or if the handler takes no attribute.
    """
    kind_of(factory)

    def mark(handler: T) -> T:
        try:
            setattr(handler, MARK, factory)
        except AttributeError:
            raise TypeError(f"{handler!r} takes no lifespan: wrap it in a function") from None
        return handler

    return mark


def kind_of(factory: Any) -> str:
    """ "sync" or "async", without calling it. TypeError if nothing tells."""
    made = factory
    while True:
        if inspect.isasyncgenfunction(made):
            return ASYNC
        if inspect.isgeneratorfunction(made):
            return SYNC
        inner = getattr(made, "__wrapped__", made.func if isinstance(made, functools.partial) else None)
        if inner is None:
            break
        made = inner
    if isinstance(made, type):
        if hasattr(made, "__enter__"):
            return SYNC
        if hasattr(made, "__aenter__"):
            return ASYNC
    raise TypeError(
        f"nothing tells what kind of lifespan {factory!r} is; it should be a generator function with one yield, "
        "def or async def, or a class with __enter__ or __aenter__"
    )


class Lifespan:
    """The lifespan of one worker, to be entered once: a context manager, async if `kind` is "async".

    Entering raises WorkerFailedToStart with the user's own traceback. Leaving never raises (see `tell_failures`).
    """

    __slots__ = ("_failed", "_manager", "factory", "kind", "name", "value")

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory
        self.value: Any = None
        self._manager: Any = None
        self.kind = kind_of(factory)
        self.name = str(getattr(factory, "__qualname__", repr(factory)))
        self._failed: Callable[[BaseException], None] | None = None

    def tell_failures(self, call: Callable[[BaseException], None]) -> None:
        """Have `call` called with what the user's code raises while it is left."""
        self._failed = call

    def __enter__(self) -> None:
        try:
            self._manager = self._made(contextlib.contextmanager)
            self._become(self._manager.__enter__())
        except BaseException as error:
            raise self._not_entered(error) from None

    def __exit__(self, *_: object) -> None:
        try:
            self._manager.__exit__(None, None, None)
        except BaseException as error:
            self._not_left(error)
        finally:
            self._become(None)

    async def __aenter__(self) -> None:
        try:
            self._manager = self._made(contextlib.asynccontextmanager)
            self._become(await self._manager.__aenter__())
        except BaseException as error:
            raise self._not_entered(error) from None

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseException as error:
            self._not_left(error)
        finally:
            self._become(None)

    def _made(self, managed: Callable[..., Any]) -> Any:
        made = self.factory()
        plain = inspect.isgenerator(made) or inspect.isasyncgen(made)
        return managed(lambda: made)() if plain else made

    def _not_entered(self, error: BaseException) -> WorkerFailedToStart:
        return WorkerFailedToStart(f"The lifespan {self.name!r} failed to start.", tracebacks.of_users(error))

    def _not_left(self, error: BaseException) -> None:
        if self._failed is not None:
            self._failed(error)

    def _become(self, value: Any) -> None:
        global _value
        self.value = _value = value
