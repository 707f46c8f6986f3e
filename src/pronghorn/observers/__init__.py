"""Whoever wants to know what happened.

Law: an observer is a callable that takes an event. It imports events, the scoreboard and `kernel/`, never the rooms
whose events it hears; only the server puts observers together. An observer that raises is reported once and removed:
a broken log must not end a connection.
"""

from __future__ import annotations

import logging

from pronghorn.events import Event, Observer


class Observers:
    """Many observers as one: calling it hands the event to each, in the order in which they were added."""

    __slots__ = ("_observers",)

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def __call__(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:
                self._remove(observer, event, error)

    def __len__(self) -> int:
        return len(self._observers)

    def _remove(self, observer: Observer, event: Event, error: Exception) -> None:
        # A new tuple: another thread may be walking along the old one.
        self._observers = tuple(each for each in self._observers if each is not observer)
        logging.getLogger("pronghorn.error").error(
            "The observer %r raised %s: %s on %s and is no longer called",
            observer, type(error).__name__, error, type(event).__name__,
        )  # fmt: skip
