"""Observers of the user's own."""

from __future__ import annotations

import pronghorn
from pronghorn import events


class Alarm(pronghorn.Observer):
    hears = (events.HandlerFailed, events.WorkerExited)

    def __init__(self) -> None:
        self.dead: list[int] = []
        self.failed: dict[str, BaseException] = {}

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.HandlerFailed):
            self.failed[event.id] = event.error
        elif isinstance(event, events.WorkerExited) and not event.wanted:
            self.dead.append(event.pid)

    def forked(self) -> None:
        self.failed.clear()

    def close(self) -> None:
        print(len(self.dead))


def everything(event: events.Event) -> None:
    if type(event) in events.OF_WORKERS:
        print(event)


pronghorn.serve("upper", observer=["mine.py:Alarm", "mine.py:everything"])
