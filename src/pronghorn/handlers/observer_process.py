"""The process of observers, beside the supervisor: it imports the user's observers and calls them with its events.

Run as `python -P -m pronghorn.handlers.observer_process FD`, by supervisor/observer_side.py. It has the privileges,
the working folder and the variables (`--env-file`) of a worker. An observer that raises is reported, and left out for
ten seconds; one that waits keeps the others waiting, and nobody else.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Any

import msgspec

from pronghorn import events, tracebacks
from pronghorn.errors import PronghornError
from pronghorn.events import Event
from pronghorn.handlers.user_observers import UserObserver, make
from pronghorn.system import env_file
from pronghorn.system.processes import forgo_privileges
from pronghorn.system.side_boot import Side, begin

REST = 10.0  # seconds without an observer that has raised
FAILED = "failed"
"""What is said on the line when one has: its name."""


class Hearing(msgspec.Struct):
    """What the process is started with: names of observers, and what a worker would find."""

    names: list[str]
    folder: str = ""
    environment: dict[str, str] = {}
    new_privileges: bool = False


def told(event: Event) -> dict[str, Any]:
    """An event as it is sent to the process."""
    return {"event": type(event).__name__, "fields": msgspec.structs.asdict(event)}


def heard(message: dict[str, Any]) -> Event:
    """The event of a message."""
    kind = getattr(events, message["event"])
    event: Event = msgspec.convert(message["fields"], kind)
    return event


def call(observer: UserObserver, event: Event, side: Side, resting: dict[UserObserver, float]) -> None:
    """Call an observer, unless it rests; whatever it raises is reported."""
    if not observer.hears(type(event)) or time.monotonic() < resting.get(observer, 0.0):
        return
    try:
        observer(event)
    except BaseException as error:
        resting[observer] = time.monotonic() + REST
        what = f"The observer {observer.title} raised {type(error).__name__} on {type(event).__name__}"
        side.say("error", f"{what}; it is left out for 10 s\n{tracebacks.of_users(error)}")
        side.send({FAILED: observer.title})


def main() -> int:
    side = begin()
    hearing = msgspec.convert(side.settings, Hearing)
    if not hearing.new_privileges:
        forgo_privileges()
    env_file.apply(hearing.environment)
    if hearing.folder:
        os.chdir(hearing.folder)
    try:
        observers = make(hearing.names)
    except PronghornError as error:
        side.say("error", str(error))
        return error.exit_code
    side.ready()
    resting: dict[UserObserver, float] = {}
    while not side.ended:
        select.select([side], [], [])
        for message in side.take():
            event = heard(message)
            for each in observers:
                call(each, event, side, resting)
    return 0


if __name__ == "__main__":
    sys.exit(main())
