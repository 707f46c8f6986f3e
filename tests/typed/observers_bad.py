"""What type checkers refuse of observers."""

from __future__ import annotations

import pronghorn
from pronghorn import events


class Wrong(pronghorn.Observer):
    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.ConnectionClosed):
            print(event.nothing)  # wrong: no such field
            event.seconds = 1.0  # wrong: a record is frozen

    def forked(self, more: int) -> None:  # wrong: it gets nothing
        pass


pronghorn.serve("upper", observer=1)  # wrong: a name
