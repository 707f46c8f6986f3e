"""The plan of a generation: what each of its workers is made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn.events import AccessLogSet, Event, Observer
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.listening.listener import Listener
from pronghorn.models.model import Model
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.settings import Settings
from pronghorn.settings.lifecycle import HANDOVER
from pronghorn.system.descriptor_queue import DescriptorQueue
from pronghorn.system.log_file import STANDARD_OUTPUT

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates


class PlannedService(msgspec.Struct, frozen=True):
    """What is served at some of the listeners. `source` is a Source, or the handler object itself; `settings` are
    those of the service. `title` is how messages call its listener, empty for what is the server's own."""

    source: Any
    settings: Settings
    facts: HandlerFacts
    title: str = ""
    certificates: Certificates | None = None


class Offered(msgspec.Struct, frozen=True):
    """What a listener of the same place offers: the place of its service, and the listener's name. `number` is where
    the scoreboard counts for it, -1: nowhere."""

    service: int
    name: str
    number: int = -1


class Plan(msgspec.Struct, frozen=True):
    """`source` is that of the server's own handler. `folder` is where paths begin and where handlers are looked for;
    the supervisor's working folder if it is empty. `server` is the server's name. The server may use so many
    `processors`. `environment` are variables for the handlers (`--env-file`)."""

    source: Any
    settings: Settings
    model: Model
    services: tuple[PlannedService, ...]
    listeners: list[Listener]
    offered: list[Offered]
    observe: Observer
    board: Scoreboard
    folder: str = ""
    queue: DescriptorQueue | None = None
    """Where connections move from worker to worker (serving/handover.py)."""
    bus: DescriptorQueue | None = None
    """The door to the hub of the bus (supervisor/bus_side.py)."""
    server: str = ""
    processors: int = 1
    environment: dict[str, str] = {}

    @property
    def stay_because(self) -> str:
        """Why no connection moves to or from workers of this plan; empty if connections do."""
        if self.settings.on_reload != HANDOVER:
            return f"--on-reload {self.settings.on_reload}"
        if self.queue is None:
            return "the server has no queue for it"
        styles = dict.fromkeys(each.style for each in self.facts)
        if not any(each.moves for each in self.facts):
            return f"a handler of {', '.join(styles)} style"
        return f"model {self.model.name}" if self.model.own_flow else ""

    @property
    def facts(self) -> tuple[HandlerFacts, ...]:
        """Of the handler of each service."""
        return tuple(each.facts for each in self.services)

    @property
    def certificates(self) -> list[Certificates]:
        """Those of all services, each once."""
        found: list[Certificates] = []
        for each in self.services:
            if each.certificates is not None and not any(each.certificates is other for other in found):
                found.append(each.certificates)
        return found

    def told_of_certificates(self, before: Plan | None = None) -> list[Event]:
        """What there is to say of the certificates, each thing once; `before` is the plan whose place this one took."""
        old = before.certificates if before is not None else []
        known = {each.serial for one in old for each in one.described} if before is not None else None
        return [*dict.fromkeys(event for each in self.certificates for event in each.events(known))]

    def access_log(self, *, planned: bool = False) -> AccessLogSet:
        """The access log of the generation, for observers."""
        path = self.settings.access_log
        if path not in ("", STANDARD_OUTPUT):
            path = os.path.join(self.folder or os.getcwd(), path)
        return AccessLogSet(path, self.settings.access_log_format, planned)

    @property
    def runs_programs(self) -> bool:
        """Whether a handler is a program."""
        return any(each.style == "program" for each in self.facts)

    def tells_listeners_apart(self, names: Sequence[str]) -> bool:
        """Whether it is worth while to count, and to log, by listener: there are several names, or one is given."""
        return len(set(names)) > 1 or any(each.title for each in self.services)

    def service_at(self, listener: Listener) -> PlannedService:
        """What is served at one of the listeners."""
        return self.services[self.offered[self.listeners.index(listener)].service]

    @property
    def workers(self) -> int:
        """How many workers the generation has."""
        return self.settings.effective_workers(self.model.name, self.processors)
