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
    server: str = ""
    processors: int = 1
    environment: dict[str, str] = {}

    @property
    def workers(self) -> int:
        """How many workers the generation has."""
        return self.settings.effective_workers(self.model.name, self.processors)
