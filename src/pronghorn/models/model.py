"""What the pages of models/ share: what a model is, how a connection begins and ends, and who is still open.

Law: a model knows connections and nothing of processes. Accepting is done here, once for all models, with its limits
and errors; a page writes out its loop and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import msgspec

from pronghorn.errors import BadSetting, IncompatibleHandler
from pronghorn.handlers.handler import Facts
from pronghorn.lifespans import ASYNC
from pronghorn.serving.context import Context
from pronghorn.settings import Settings


def by_descriptors(settings: Settings, descriptors: int) -> tuple[int, str]:
    """The capacity of models that need nothing per connection but its descriptor."""
    return descriptors, "the limit of descriptors (ulimit -n)"


def _nothing_missing() -> str | None:
    return None


def _nothing() -> None:
    return None


class Model(msgspec.Struct, frozen=True):
    """One concurrency model: a page's `serve`, and what there is to know before it is chosen."""

    name: str
    serve: Callable[[Context], None]
    own_flow: bool
    """Each connection has a flow of control of its own: a process, thread or greenlet."""
    purpose: str
    cost: str
    capacity: Callable[[Settings, int], tuple[int, str]]
    """Connections that one worker holds at most, of so many descriptors, and what sets that limit."""
    holds: bool = False
    """One conversation holds the only flow of control."""
    descriptors: int | None = None
    """Numbers of descriptors from this one on cannot be watched."""
    selector: str = ""
    """The class in `selectors` that asyncio's loop uses when an asyncio handler runs under this model."""
    runs_asyncio: bool = True
    is_asyncio: bool = False
    """Its loop is asyncio's, whatever the handler is."""
    missing: Callable[[], str | None] = _nothing_missing
    """Why the model is not available here, and what to do; None if it is."""
    prepare: Callable[[], None] = _nothing
    """Called first thing in a worker, before the handler is imported."""
    learns_clients: bool = True
    """The worker itself reads for whom a proxy speaks."""

    def check(self, handler: Facts) -> None:
        """Refuse a handler that cannot run here: IncompatibleHandler says why, and which models to choose."""
        from pronghorn.models import registry

        if handler.patched and self.name != "gevent":
            self._refuse_patched(handler)
        if handler.lifespan == ASYNC and (handler.blocks or not self.has_asyncio_loop(handler)):
            self._refuse_lifespan(handler)
        if handler.blocks and not self.own_flow:
            why = "A handler that blocks needs a flow of control of its own; here it would stop everybody else."
            fit = [each.name for each in registry.pages() if each.own_flow]
        elif handler.needs_asyncio and not self.runs_asyncio:
            why = "A handler for asyncio needs an asyncio loop, and gevent is a loop of another kind."
            fit = [each.name for each in registry.pages() if each.runs_asyncio]
        else:
            return
        raise IncompatibleHandler(
            f"{handler.name!r} is of {handler.style} style, which model {self.name!r} cannot run.",
            why,
            f"Choose another --model: {', '.join(fit)}.",
        )

    def check_settings(self, settings: Settings) -> None:
        """Refuse settings that this model cannot keep: BadSetting says why."""
        if settings.max_connections_per_source and settings.proxy_from and not self.learns_clients:
            raise BadSetting(
                f"--max-connections-per-source cannot be kept under {self.name} with --proxy-from.",
                "Only a connection's own process learns there for which client the proxy speaks.",
                "Limit sources at the proxy, or choose another --model.",
            )

    def make_loop(self, handler: Facts) -> None:
        """Make the asyncio loop that will serve, if there is to be one; before the handler is imported, in a worker."""
        if self.has_asyncio_loop(handler):
            from pronghorn.models import aio

            aio.begin(self)

    def has_asyncio_loop(self, handler: Facts) -> bool:
        """Whether one asyncio loop serves all connections of this handler."""
        return self.is_asyncio or (handler.needs_asyncio and not self.own_flow)

    def _refuse_patched(self, handler: Facts) -> NoReturn:
        raise IncompatibleHandler(
            f"{handler.name!r} patches the standard library by gevent, which model {self.name!r} cannot run on.",
            "After monkey.patch_all() threads and sockets wait for gevent's loop, which turns under its model only.",
            "Leave monkey.patch_all() out: asyncio has a loop of its own."
            if handler.needs_asyncio
            else "Use --model gevent, or leave monkey.patch_all() out.",
        )

    def _refuse_lifespan(self, handler: Facts) -> NoReturn:
        from pronghorn.models import registry

        fit = [each.name for each in registry.pages() if each.has_asyncio_loop(handler)]
        raise IncompatibleHandler(
            f"{handler.name!r} has an async lifespan, which model {self.name!r} cannot enter.",
            "An async lifespan lives on a worker's asyncio loop, one for all its connections; here is none.",
            "Make it a sync one: a handler that blocks runs beside no asyncio loop."
            if handler.blocks
            else f"Choose another --model: {', '.join(fit)}; or make it a sync one.",
        )

    def styles(self) -> list[str]:
        """The styles that run under this model, in the order of the manual."""
        own = ["blocking", "program"] if self.own_flow else []
        return ["message", "protocol", *(["asyncio"] if self.runs_asyncio else []), *own]

    def run(self, context: Context) -> int:
        """Serve until drained; the number of connections that were cut at the drain deadline."""
        if context.handler.facts.style == "program":
            from pronghorn.handlers import programs

            programs.note = context.note_program
        if context.handler.facts.needs_asyncio and not (self.own_flow or self.is_asyncio):
            from pronghorn.models import aio

            aio.serve_with(context)
        else:
            self.serve(context)
        context.fold()
        context.finish()
        return context.cut
