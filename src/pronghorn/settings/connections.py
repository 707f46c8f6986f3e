"""Settings of one connection: how long its peer may take, and how much may wait unsent."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.admission import Admission
from pronghorn.settings.fields import Option


class Connections(Admission, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one connection gets."""

    handshake_timeout: Annotated[
        float,
        "Time that a peer gets for what comes before the conversation: a PROXY header, and as much again for the TLS "
        "handshake.",
        Option(unit="time", gt=0, own=True),
    ] = 10.0
    idle_timeout: Annotated[
        float,
        "Time since a peer's last byte after which its connection is ended; what we send does not count, except that "
        "whoever takes of a long reply is not idle. 0: never.",
        Option(unit="time", ge=0, own=True),
    ] = 300.0
    message_timeout: Annotated[
        float,
        "Time that one message gets in all, from its first byte; for message handlers. 0: no limit.",
        Option(unit="time", ge=0, own=True),
    ] = 30.0
    write_timeout: Annotated[
        float,
        "Time in which a peer takes nothing of what is unsent, after which its connection is cut. 0: no limit.",
        Option(unit="time", ge=0, own=True),
    ] = 30.0
    max_connection_age: Annotated[
        float,
        "Age at which a connection is ended as draining would end it. 0: never.",
        Option(unit="time", ge=0, own=True),
    ] = 0.0
    write_high_water: Annotated[
        int, "Unsent bytes of one connection at which reading from it pauses.", Option(unit="size", ge=1, own=True)
    ] = 64 * 1024
    max_write_buffer: Annotated[
        int,
        "Unsent bytes of one connection beyond which another write ends it: of handlers that send without waiting for "
        "the peer.",
        Option(unit="size", ge=1, own=True),
    ] = 16 * 1024 * 1024
