"""Loading: from the name of a handler, a program's command or a script's object to a Handler.

Law: the user's code is imported in the probe and in workers only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pronghorn.errors import BadHandler, BadSetting, PronghornError, nearest
from pronghorn.handlers import importing
from pronghorn.handlers.handler import Handler, HandlerFacts
from pronghorn.handlers.recognise import could_be, is_marked, recognise
from pronghorn.settings import Settings
from pronghorn.settings.listeners import HANDLER, LISTENERS
from pronghorn.settings.services import blamed
from pronghorn.settings.source import BUILT_IN, Source
from pronghorn.system.processes import program_path

in_progress = False
"""True while this process imports the user's code: serve() is refused there."""


class Asked(NamedTuple):
    """What one service asks for: a Source or the handler itself, its settings, and how messages call the listener."""

    source: Any
    settings: Settings
    title: str = ""


def load_all(asked: Sequence[Asked]) -> list[Handler]:
    """The handlers of all services. An object that several of them name is found once, and has one lifespan. Raises as
    `load_handler`, with the listener's name."""
    found: dict[Any, Any] = {}
    loaded = []
    for source, settings, title in asked:
        with blamed(title):
            loaded.append(load_handler(source, settings, found))
    lifespans: dict[int, Any] = {}
    for each in loaded:
        if each.lifespan is not None:
            each.lifespan = lifespans.setdefault(id(each.lifespan.factory), each.lifespan)
        if len(loaded) > 1 and _is_patched():
            each.facts = msgspec.structs.replace(each.facts, patched=True)
    return loaded


def takes_probe(asked: Sequence[Asked]) -> bool:
    """Whether the user's code has to be imported to know the handlers, or to see that the observers can be."""
    return any(
        each.settings.observer or (isinstance(each.source, Source) and each.source.is_users_code) for each in asked
    )


def load_handler(source: Any, settings: Settings, found: dict[Any, Any] | None = None) -> Handler:
    """The handler, from its Source or from the object itself; raises BadHandler. `found` has the objects that were
    found before.

    Imports the user's code from the working folder, which stands first on the path from here on.
    """
    global in_progress
    if not isinstance(source, Source):
        return recognise(source, settings, handler_name(source))
    importing.look_in(os.getcwd())
    in_progress = True
    try:
        return load(source, settings, found)
    except PronghornError:
        raise
    except BaseException as error:
        raise BadHandler(f"{source.name} cannot be imported.", f"It raised {type(error).__name__}: {error}") from None
    finally:
        in_progress = False


def handler_name(handler: Any) -> str:
    """What a handler object is called in logs and messages."""
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    return str(named.__qualname__)


def hold_handlers(settings: dict[str, Any]) -> dict[str, Any]:
    """The handlers of `listeners` that are objects, by the names that take their places there."""
    held: dict[str, Any] = {}
    listeners = settings.get(LISTENERS)
    if isinstance(listeners, list | tuple):
        made = []
        for place, each in enumerate(listeners, 1):
            handler = each.get(HANDLER) if isinstance(each, Mapping) else None
            if handler is not None and not isinstance(handler, str):
                name = f"{handler_name(handler)} (listener {place})"
                held[name] = handler
                each = {**each, HANDLER: name}
            made.append(each)
        settings[LISTENERS] = made
    return held


def load(source: Source, settings: Settings, known: dict[Any, Any] | None = None) -> Handler:
    """The handler that `source` names, imported and recognised. Raises BadHandler or BadSetting."""
    _refuse_idle_settings(source, settings)
    if source.command:
        return program(source.command)
    if not source.is_users_code:
        if source.name not in BUILT_IN:
            raise BadHandler(
                f"There is no built-in handler {source.name!r}.",
                _meant_file(source.name) or nearest(source.name, BUILT_IN),
                "Your own are named module:name or path/file.py:name.",
            )
        from pronghorn.handlers import builtin  # here: not every worker needs them

        return recognise(getattr(builtin, source.name), settings, source.name)
    known = {} if known is None else known
    key = source.name, settings.factory
    if key not in known:
        found = known[key] = find(source.name)
        if settings.factory:
            known[key] = importing.users(lambda: found(), f"The factory {source.name!r} failed.")
    found = known[key]
    made = recognise(found, settings, source.name)
    made.facts = msgspec.structs.replace(made.facts, patched=_is_patched())
    return made


def _meant_file(name: str) -> str:
    file = f"{name.replace('.', os.sep)}.py"
    return f"Did you mean the file {file}?" if os.path.isfile(file) else ""


def _is_patched() -> bool:
    """Whether gevent has replaced, in this process, what the server's own threads and loops are made of."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and any(monkey.is_module_patched(each) for each in ("socket", "select", "threading"))


def _refuse_idle_settings(source: Source, settings: Settings) -> None:
    """Raises BadSetting for a setting that would have no effect."""
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
    from pronghorn.handlers import programs  # here: it imports subprocess

    whole = (program_path(command), *command[1:])
    facts = HandlerFacts(" ".join(command), "program")
    return Handler(facts, converse=lambda conn: programs.run(whole, conn))


def find(name: str) -> Any:
    """Import what `module:name` or `path/file.py:name` says, or the one handler of `path/file.py`."""
    place, attribute = importing.parted(name)
    found = importing.module(place, name)
    return importing.attribute_of(found, place, attribute or importing.the_one(found, place, is_marked, could_be))
