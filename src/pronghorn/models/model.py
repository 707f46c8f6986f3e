"""What a concurrency model is: what there is to know of it before it is chosen, and the function that serves.

Law: a model is data. What is decided with it, which handlers it runs and what follows from that, stands in registry.py.
"""

from __future__ import annotations

from collections.abc import Callable

from pronghorn.serving.context import Context, Traits


def _nothing_missing() -> str | None:
    return None


def _nothing() -> None:
    return None


class Model(Traits, frozen=True, kw_only=True):
    """One concurrency model: a page's `serve`, and what there is to know before the model is chosen."""

    serve: Callable[[Context], None]
    own_flow: bool = False
    """Each connection has a flow of control of its own: a process, thread or greenlet."""
    purpose: str
    cost: str
    loop: str = ""
    """The asyncio loop that serves asyncio handlers here: `uvloop`, or the class in `selectors` for asyncio's own."""
    runs_asyncio: bool = True
    is_asyncio: bool = False
    """The model's loop is asyncio's, whatever the handler is."""
    missing: Callable[[], str | None] = _nothing_missing
    """Why the model is not available here, and what to do; None if it is."""
    prepare: Callable[[], None] = _nothing
    """Called first thing in a worker, before the handler is imported."""
