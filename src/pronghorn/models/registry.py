"""The list of concurrency models, which of them can run a handler, and how one is run.

Law: a page is imported only when it is asked for, so that a worker carries no model but its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import select as calls  # by another name: a page is called select
from collections.abc import Sequence
from typing import NoReturn

from pronghorn.errors import BadSetting, IncompatibleHandler, MissingExtra, nearest
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.lifespans import ASYNC
from pronghorn.models.model import Model
from pronghorn.serving.context import Context
from pronghorn.settings import Settings
from pronghorn.settings.model import MODELS as NAMES

MODELS = tuple(name for name in NAMES if name != "auto")
STRONGEST = ("fork", "thread", "gevent", "uvloop", "asyncio")  # of auto's choices, the one that runs most styles first
MANY = len(STRONGEST)
NAMED_OTHERWISE = {"asyncio": ("aio", "ASYNCIO"), "uvloop": ("aio", "UVLOOP"), "gevent": ("green", "MODEL")}


def page(name: str) -> Model:
    """A model, available here or not; BadSetting if there is none of this name."""
    if name not in MODELS:
        raise BadSetting(f"There is no model {name!r}.", hint=nearest(name, MODELS))
    module, attribute = NAMED_OTHERWISE.get(name, (name, "MODEL"))
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


def choose(handler: HandlerFacts) -> tuple[str, str]:
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


ONE_AT_A_TIME = ("fork", "prefork", "iterative")
"""The models under which a process serves one connection at a time."""


def styles(model: Model) -> list[str]:
    """The styles that run under a model, in the order of the manual."""
    own = ["blocking", "program"] if model.own_flow else []
    return ["message", "protocol", *(["asyncio"] if model.runs_asyncio else []), *own]


def check(model: Model, handler: HandlerFacts, others: Sequence[HandlerFacts] = ()) -> None:
    """Refuse a handler that cannot run under `model`, beside the `others`: IncompatibleHandler says why, and which
    models to choose."""
    if handler.patched and model.name != "gevent":
        _refuse_patched(model, handler)
    if handler.lifespan == ASYNC and (handler.blocks or not _has_asyncio_loop(model, [handler, *others])):
        _refuse_lifespan(model, handler)
    if handler.blocks and not model.own_flow:
        why = "A handler that blocks needs a flow of control of its own; here it would stop everybody else."
        fit = [each.name for each in pages() if each.own_flow]
    elif handler.needs_asyncio and not model.runs_asyncio:
        why = "A handler for asyncio needs an asyncio loop, and gevent is a loop of another kind."
        fit = [each.name for each in pages() if each.runs_asyncio]
    else:
        return
    raise IncompatibleHandler(
        f"{handler.name!r} is of {handler.style} style, which model {model.name!r} cannot run.",
        why,
        f"Choose another --model: {', '.join(fit)}.",
    )


def choose_for_all(handlers: Sequence[HandlerFacts]) -> tuple[str, str]:
    """The model for `--model auto` that runs all of these, and why that one. Raises IncompatibleHandler if there is
    none."""
    chosen = [choose(each) for each in handlers]
    for name, why in sorted(chosen, key=lambda each: STRONGEST.index(each[0]) if each[0] in STRONGEST else MANY):
        try:
            for place, each in enumerate(handlers):
                check(load(name), each, [*handlers[:place], *handlers[place + 1 :]])
        except IncompatibleHandler:
            continue
        return name, why
    wishes = [
        f"{each.name!r} ({each.style} style) wants {name}, since {why}."
        for each, (name, why) in zip(handlers, chosen, strict=True)
    ]
    raise IncompatibleHandler(
        "No model runs the handlers of all listeners.",
        " ".join(dict.fromkeys(wishes)),
        "Serve them by two servers, or give a handler another style.",
    )


def check_settings(model: Model, settings: Settings) -> None:
    """Refuse settings that a model cannot keep: BadSetting says why."""
    for name in ("max_process_cpu", "max_process_memory"):
        if getattr(settings, name) and model.name not in ONE_AT_A_TIME:
            raise BadSetting(
                f"--{name.replace('_', '-')} cannot be kept under {model.name}.",
                "There one process serves many connections at a time.",
                f"Choose another --model: {', '.join(ONE_AT_A_TIME)}; or bound workers, by --max-worker-memory.",
            )
    if settings.max_connections_per_source and settings.proxy_from and model.in_children:
        raise BadSetting(
            f"--max-connections-per-source cannot be kept under {model.name} with --proxy-from.",
            "Only a connection's own process learns there for which client the proxy speaks.",
            "Limit sources at the proxy, or choose another --model.",
        )


def _has_asyncio_loop(model: Model, handlers: Sequence[HandlerFacts]) -> bool:
    """Whether one asyncio loop serves all connections of these handlers."""
    return model.is_asyncio or (any(each.needs_asyncio for each in handlers) and not model.own_flow)


def _refuse_patched(model: Model, handler: HandlerFacts) -> NoReturn:
    raise IncompatibleHandler(
        f"{handler.name!r} patches the standard library by gevent, which model {model.name!r} cannot run on.",
        "After monkey.patch_all() threads and sockets wait for gevent's loop, which turns under its model only.",
        "Leave monkey.patch_all() out: asyncio has a loop of its own."
        if handler.needs_asyncio
        else "Use --model gevent, or leave monkey.patch_all() out.",
    )


def _refuse_lifespan(model: Model, handler: HandlerFacts) -> NoReturn:
    fit = [each.name for each in pages() if _has_asyncio_loop(each, [handler])]
    raise IncompatibleHandler(
        f"{handler.name!r} has an async lifespan, which model {model.name!r} cannot enter.",
        "An async lifespan lives on a worker's asyncio loop, one for all its connections; here is none.",
        "Make it a sync one: a handler that blocks runs beside no asyncio loop."
        if handler.blocks
        else f"Choose another --model: {', '.join(fit)}; or make it a sync one.",
    )


def prepare(model: Model, handlers: Sequence[HandlerFacts]) -> None:
    """What a worker does before it imports the handlers: patch, and make the asyncio loop if one is to serve."""
    model.prepare()
    if _has_asyncio_loop(model, handlers):
        from pronghorn.models import aio

        aio.begin(model.loop)


def run(model: Model, context: Context) -> int:
    """Serve until drained, after `prepare`; the number of connections that were cut at the drain deadline."""
    serve = model.serve
    if _has_asyncio_loop(model, [each.facts for each in context.handlers]):
        from pronghorn.models import aio

        serve = aio.serve
    serve(context)
    context.fold()
    context.finish()
    return context.cut
