"""The plan of a generation: what each of its workers is made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn.events import Observer
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.listening.listener import Listener
from pronghorn.models.model import Model
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.settings import Settings
from pronghorn.settings.lifecycle import HANDOVER
from pronghorn.system.descriptor_queue import DescriptorQueue

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates


class Plan(msgspec.Struct, frozen=True):
    """`source` is a Source, or the handler object itself. `folder` is where paths begin and where the handler is looked
    for; the supervisor's working folder if it is empty. `server` is the server's name. The
    server may use so many `processors`. `environment` are variables for the handler (`--env-file`)."""

    source: Any
    settings: Settings
    model: Model
    listeners: list[Listener]
    observe: Observer
    board: Scoreboard
    facts: HandlerFacts
    certificates: Certificates | None = None
    folder: str = ""
    queue: DescriptorQueue | None = None
    """Where connections move from worker to worker (serving/handover.py)."""
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
        if self.facts.style not in ("message", "protocol"):
            return f"a handler of {self.facts.style} style"
        return f"model {self.model.name}" if self.model.own_flow else ""

    @property
    def workers(self) -> int:
        """How many workers the generation has."""
        return self.settings.effective_workers(self.model.name, self.processors)
