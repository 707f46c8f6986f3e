"""Settings of the server as a process: its name, its owner, its log."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.deadlines import Patience
from pronghorn.settings.fields import option

LOG_LEVELS = tuple("debug info warning error".split())


class Process(Patience, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the system sees of the server."""

    log_level: Annotated[str, option("Least important record that is logged.", "Logs", of=LOG_LEVELS)] = "info"
