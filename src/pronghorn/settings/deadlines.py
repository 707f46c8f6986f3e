"""Settings of how long a peer may take, and how much may wait for it."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import option
from pronghorn.settings.limits import Limits

PANEL = "Deadlines and buffers"


class Patience(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one connection gets."""

    handshake_timeout: Annotated[
        float,
        option(
            "Time that a peer gets for what comes before the conversation: a PROXY header, and as much again for the "
            "TLS handshake.",
            PANEL,
            unit="time",
            gt=0,
        ),
    ] = 10.0
    idle_timeout: Annotated[
        float,
        option("Time since a peer's last byte after which its connection is ended; what we send does not count, except "
               "that whoever takes of a long reply is not idle. 0: never.", PANEL, unit="time", ge=0),
    ] = 300.0  # fmt: skip
    message_timeout: Annotated[
        float,
        option("Time that one message gets in all, from its first byte; for message handlers. 0: no limit.", PANEL,
               unit="time", ge=0),
    ] = 30.0  # fmt: skip
    write_timeout: Annotated[
        float,
        option("Time in which a peer takes nothing of what is unsent, after which its connection is cut. 0: no limit.",
               PANEL, unit="time", ge=0),
    ] = 30.0  # fmt: skip
    max_connection_age: Annotated[
        float,
        option("Age at which a connection is ended as draining would end it. 0: never.", PANEL, unit="time", ge=0),
    ] = 0.0  # fmt: skip
    write_high_water: Annotated[
        int, option("Unsent bytes of one connection at which reading from it pauses.", PANEL, unit="size", ge=1)
    ] = 64 * 1024
    max_write_buffer: Annotated[
        int,
        option("Unsent bytes of one connection beyond which another write ends it: of handlers that send without "
               "waiting for the peer.", PANEL, unit="size", ge=1),
    ] = 16 * 1024 * 1024  # fmt: skip
