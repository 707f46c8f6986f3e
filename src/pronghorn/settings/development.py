"""Settings for whoever writes a handler."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import option
from pronghorn.settings.process import Process


class Development(Process, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What helps while a handler changes."""

    reload: Annotated[
        bool,
        option(
            "Reload when a Python file of the handler's folder or of the working folder, or the settings file, has "
            "changed. A mistake is told, and what served goes on.",
            "Development",
        ),
    ] = False
