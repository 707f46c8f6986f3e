"""Where settings come from, so that a reload can read them anew.

Law: what was given on the command line and in the environment is kept as it was given, with its origin; it is settled
again for each reload.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pronghorn.settings import Settings, settle
from pronghorn.settings.source import Source


class Settled(msgspec.Struct, frozen=True):
    """Settings and a handler's source that can be acted on."""

    settings: Settings
    source: Source


class Layers(msgspec.Struct, frozen=True):
    """`given` are plain values, `origins` say where each comes from (`--workers`, `PRONGHORN_WORKERS`)."""

    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    source: Source = Source()

    def settle(self) -> Settled:
        """Raises BadSetting, with the origin of what is wrong."""
        return Settled(settle(self.given, self.origins), self.source)
