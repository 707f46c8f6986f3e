"""Observers: callables that take an event, and many of them called as one.

Law: an observer imports errors, events, settings and system/, never the packages whose events it gets; only the server
(beside.py) puts observers together. An observer that raises, whatever it raises, is reported and not called for ten
seconds: a broken log must not end a connection, and memory that was short for a moment must not end the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pronghorn.events import AccessLogSet, Event, LogLevelSet, Observer, ObserverFailed

REST = 10.0  # seconds
CHANGES = (AccessLogSet, LogLevelSet)
"""Events by which observers change what they hear."""


def _always(kind: type[Event]) -> bool:
    return True


class Observers:
    """Many observers as one: calling it hands the event to each, in the order in which they were added. `clock` is
    monotonic, in seconds."""

    __slots__ = ("_clock", "_hearing", "_observers", "_resting")

    def __init__(self, *observers: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._observers = observers
        self._hearing: dict[type[Event], list[tuple[int, Observer]]] = {}  # who does something with each kind, so far
        self._clock = clock
        self._resting: dict[int, float] = {}  # by place: until when

    def __call__(self, event: Event) -> None:
        kind = type(event)
        hearing = self._hearing.get(kind)
        for place, observer in self._find(kind) if hearing is None else hearing:
            if self._resting and self._clock() < self._resting.get(place, 0.0):
                continue
            try:
                observer(event)
            except BaseException as error:
                self._failed(place, event, error)

    def _find(self, kind: type[Event]) -> list[tuple[int, Observer]]:
        """Who hears of such an event. Those that change what is heard all hear of, and ask anew."""
        every = [*enumerate(self._observers)]
        if kind in CHANGES:
            self._hearing.clear()
            return every
        found = [(place, each) for place, each in every if getattr(each, "hears", _always)(kind)]
        self._hearing[kind] = found
        return found

    def add(self, *observers: Observer) -> None:
        """Call these too from now on, in this process and those that it forks."""
        self._observers += observers
        self._hearing.clear()

    def hears(self, kind: type[Event]) -> bool:
        """Whether any observer does something with such an event, as long as the level of the log stays what it is. An
        observer without a `hears` of its own takes every event."""
        return any(getattr(each, "hears", _always)(kind) for each in self._observers)

    def only(self, kind: type[Event]) -> Observer | None:
        """The observer that does something with such an event, if there is one, and no other."""
        found = [each for each in self._observers if getattr(each, "hears", _always)(kind)]
        return found[0] if len(found) == 1 else None

    @property
    def wants_first_byte(self) -> bool:
        """Whether any observer wants to know when the first byte of a connection was sent, which has to be noted."""
        return any(getattr(each, "wants_first_byte", False) for each in self._observers)

    def __len__(self) -> int:
        """How many observers are called now."""
        return sum(self._clock() >= self._resting.get(place, 0.0) for place in range(len(self._observers)))

    def _failed(self, place: int, event: Event, error: BaseException) -> None:
        self._resting[place] = self._clock() + REST
        failed = self._observers[place]
        failure = ObserverFailed(getattr(failed, "title", type(failed).__name__), type(event).__name__, error)
        for observer in self._observers:  # the failed one too: it may manage this short event
            try:
                observer(failure)
            except BaseException:
                pass
