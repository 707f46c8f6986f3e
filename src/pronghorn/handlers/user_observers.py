"""`Observer`, the base of the user's observers; how these are imported, made in each process, and called.

Law: an observer is imported in workers, in the probe, and in the process of observers (observer_process.py), never in
the supervisor. The probe imports it, and makes none: what an observer opens belongs to processes that serve.
"""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from pronghorn.errors import BadHandler
from pronghorn.events import PUBLIC, ConnectionClosed, Event
from pronghorn.handlers import importing
from pronghorn.handlers.callables import fits, required


class Observer:
    """What `--observer module:name` may name: a class with this base, of which each process makes one without
    arguments, when it starts. `hears` are the kinds of events that it is called with; others are not even made."""

    hears: Sequence[type[Event]] = PUBLIC

    def __call__(self, event: Event) -> None:
        """Called with each event, in the process and, as a rule, on the thread where it happens: what waits here holds
        up a loop. One that raises is reported, and left out for ten seconds."""
        raise NotImplementedError

    def forked(self) -> None:
        """Called before the first event in the process of one connection (the fork model), which has inherited this
        object: open anew what two processes cannot share."""

    def close(self) -> None:
        """Called at the end of the process, behind the last event."""


class UserObserver:
    """A user's observer, as the server calls it. `title` is its name in messages."""

    __slots__ = ("_call", "_close", "_forked", "_kinds", "_pid", "title", "wants_first_byte")

    def __init__(self, name: str, observer: Any) -> None:
        self.title = repr(name)
        self._kinds = kinds_of(name, observer)
        self.wants_first_byte = ConnectionClosed in self._kinds
        self._call: Callable[[Event], object] = observer
        self._forked = getattr(observer, "forked", None)
        self._close = getattr(observer, "close", None)
        self._pid = os.getpid()
        if callable(self._close):
            atexit.register(self.close)

    def __call__(self, event: Event) -> None:
        if type(event) in self._kinds:
            if self._pid != os.getpid():
                self._pid = os.getpid()
                if callable(self._close):
                    atexit.register(self.close)  # what was registered before the fork is the parent's
                if callable(self._forked):
                    self._forked()
            self._call(event)

    def hears(self, kind: type[Event]) -> bool:
        return kind in self._kinds

    def close(self) -> None:
        if callable(self._close):
            self._close()


def kinds_of(name: str, observer: Any) -> frozenset[type[Event]]:
    """The events that an observer wants to hear. Raises BadHandler for what is no event, or no public one."""
    wanted = getattr(observer, "hears", PUBLIC)
    try:
        kinds = frozenset(wanted)
    except TypeError:
        raise BadHandler(f"The observer {name!r} hears {wanted!r}.", "", "Write a tuple of events.") from None
    for kind in kinds:
        if kind not in PUBLIC:
            shown = getattr(kind, "__name__", repr(kind))
            hint = "Choose from pronghorn.events.PUBLIC."
            raise BadHandler(f"The observer {name!r} hears {shown}.", "That is no public event.", hint)
    return kinds


def find(name: str) -> Any:
    """Import an observer, a class or another callable. Raises BadHandler."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise BadHandler(f"--observer {name!r} names no observer.", "", "Write module:name or path/file.py:name.")
    importing.look_in(os.getcwd())
    try:
        found = importing.attribute_of(importing.module(place, name), place, attribute)
    except BadHandler as error:
        raise BadHandler(f"--observer: {error.what}", error.why, error.hint) from None
    if why := _unfit(found):
        raise BadHandler(f"{name!r} is no observer.", why, "Write a class with the base pronghorn.Observer.")
    if inspect.iscoroutinefunction(found if inspect.isroutine(found) else getattr(found, "__call__", None)):  # noqa: B004
        raise BadHandler(f"{name!r} is a coroutine function.", "An observer is called, and not awaited.", "Write def.")
    kinds_of(name, found)
    return found


def _unfit(found: Any) -> str:
    """Why no event can be told to it; empty if one can. Nothing is called to find out."""
    if not callable(found):
        return f"It is {type(found).__name__!r}, which cannot be called with an event."
    if inspect.isclass(found) and (wanted := required(found)):
        return f"It is made without arguments, and wants {', '.join(wanted)}."
    kind = found if inspect.isclass(found) else type(found)
    call = next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), None)
    if call is None or call is Observer.__call__:
        return "It has no method __call__(self, event), which is called with each event."
    if inspect.isfunction(call):
        return "" if fits(call, 2) else "Its __call__ takes no event: write __call__(self, event)."
    return "" if inspect.isclass(found) or fits(found, 1) else "It takes no event: write one parameter for it."


def check(names: Sequence[str]) -> None:
    """Import them, and make none. Raises BadHandler."""
    for name in names:
        find(name)


def make(names: Sequence[str]) -> list[UserObserver]:
    """The observers of these names for this process. Raises BadHandler."""
    made = []
    for name in names:
        found = find(name)
        if inspect.isclass(found):
            found = importing.users(found, f"The observer {name!r} cannot be made.")
        made.append(UserObserver(name, found))
    return made
