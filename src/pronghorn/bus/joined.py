"""Which connections of this process have joined anything, and where its bus is: what those who do not use it look at.

Law: imports next to nothing, since all workers import it; it is all of the bus that there is where nobody uses it.
"""

from __future__ import annotations

from typing import Any, Literal

from pronghorn import identity
from pronghorn.identity import BusPlace

Exclusive = bool | Literal["refuse"]
"""Whether a connection has a name alone: it takes it over, or joins only if it is free."""

JOINED: dict[int, Any] = {}
"""What each has joined (members.Membership), by its number. Empty as long as none has."""


def place_of_bus() -> BusPlace:
    """Where the bus of this process is. Raises BusUnavailable where there is none."""
    if identity.bus is None:
        from pronghorn.bus.errors import BusUnavailable

        if identity.variables():
            raise BusUnavailable("The server was started with --bus off.")
        raise BusUnavailable(
            "This process is no worker of a server, or not yet: a handler's module is imported before.",
            "In a handler or its lifespan it is one. Elsewhere: pronghorn.bus.connect('unix:PATH').publish(...)",
        )
    return identity.bus
