"""From what a worker is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn.events import Observer
from pronghorn.handlers import handler
from pronghorn.listening.listener import Listener
from pronghorn.models.model import Model
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.settings import Settings

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates


class Plan(msgspec.Struct, frozen=True):
    """What every worker of a server is made from; `source` is a Source, or the handler itself."""

    source: Any
    settings: Settings
    model: Model
    listeners: list[Listener]
    observe: Observer
    board: Scoreboard
    facts: handler.HandlerFacts
    certificates: Certificates | None = None
    folder: str = ""
    """Where paths begin and the handler is looked for, if not in the supervisor's working folder."""

    @property
    def workers(self) -> int:
        return self.settings.effective_workers(self.model.name)
