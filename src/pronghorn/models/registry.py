"""The concurrency models, a page each.

Law: a page is imported only when it is asked for, so that a worker carries no model but its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import select as calls  # by another name: a page is called select

from pronghorn.errors import BadSetting, MissingExtra
from pronghorn.handlers.handler import Facts
from pronghorn.lifespans import ASYNC
from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.settings import nearest

__all__ = ["MODELS", "Context", "Model", "choose", "load", "pages"]

PAGES = {
    "iterative": "iterative:MODEL",
    "fork": "fork:MODEL",
    "prefork": "prefork:MODEL",
    "thread": "thread:MODEL",
    "pool": "pool:MODEL",
    "select": "select:MODEL",
    "poll": "poll:MODEL",
    "epoll": "epoll:MODEL",
    "kqueue": "kqueue:MODEL",
    "asyncio": "aio:ASYNCIO",
    "uvloop": "aio:UVLOOP",
    "gevent": "green:MODEL",
}
MODELS = tuple(PAGES)


def page(name: str) -> Model:
    """A model, available here or not. BadSetting if there is none of this name."""
    if name not in PAGES:
        raise BadSetting(f"There is no model {name!r}.", hint=nearest(name, MODELS))
    module, _, attribute = PAGES[name].partition(":")
    model: Model = getattr(importlib.import_module(f"pronghorn.models.{module}"), attribute)
    return model


def pages() -> list[Model]:
    """Every model, in the order of the manual."""
    return [page(name) for name in MODELS]


def load(name: str) -> Model:
    """A model that can run here; MissingExtra says what it lacks and what to do."""
    model = page(name)
    why = model.missing()
    if why is not None:
        raise MissingExtra(f"Model {name!r} is not available here.", why[:1].upper() + why[1:] + ".")
    return model


def choose(handler: Facts) -> tuple[str, str]:
    """The model for `--model auto`, and why that one."""
    if handler.style == "program":
        return "fork", "a program is a process per connection"
    if handler.patched and not handler.needs_asyncio:
        return "gevent", "the handler patches the standard library by gevent"
    if handler.blocks:
        return "thread", "a blocking handler needs a flow of control of its own"
    if handler.needs_asyncio or handler.lifespan == ASYNC:
        what = "an asyncio handler" if handler.needs_asyncio else "an async lifespan"
        if importlib.util.find_spec("uvloop") is not None:
            return "uvloop", f"{what}, and uvloop is installed"
        return "asyncio", f"{what}; uvloop is not installed"
    for name, call in (("epoll", "epoll"), ("kqueue", "kqueue"), ("poll", "poll")):
        if hasattr(calls, call):
            return name, f"a {handler.style} handler never blocks"
    return "select", f"a {handler.style} handler never blocks"
