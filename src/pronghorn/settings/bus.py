"""Settings of the bus: how messages get from one connection to others, wherever they are."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.admin import Admin
from pronghorn.settings.fields import NOW, RESTART, WORKERS, Option

LOCAL, OFF, AUTO = "local", "off", "auto"
CLOSE, DROP_OLDEST = "close", "drop-oldest"


def broker_of(bus: str) -> str:
    """The URL of the broker that a value of `bus` names; empty for a bus of this server alone, or none."""
    return "" if bus in (LOCAL, OFF) else bus


class Bus(Admin, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How connections are reached by the names that they have joined."""

    bus: Annotated[
        str,
        "What carries the messages of the bus: local, a process of the server's own, which is started when a handler "
        "joins or publishes for the first time; the URL of a broker that all hosts share, redis://HOST or nats://HOST; "
        "or off. A password in it is taken from the variable and from the settings file only, since ps shows a command "
        "line.",
        Option(metavar="CARRIER", unit="broker", at=RESTART),
    ] = LOCAL
    bus_password_file: Annotated[
        str,
        "A file that holds the password for the broker of --bus, or the token for NATS, in one line. The supervisor "
        "reads it at the start and at each reload, so the workers' user needs no right to it; the next connection to "
        "the broker takes what is there by then.",
        Option(metavar="PATH", at=RESTART),
    ] = ""
    bus_required: Annotated[
        bool,
        "Not ready (/readyz, ctl status) while the broker of --bus is away. Without this the server stays ready, since "
        "it still serves, and one broker that is away would take all hosts out of rotation.",
        Option(at=NOW),
    ] = False
    bus_socket: Annotated[
        str,
        "Path of the unix socket by which other processes of the same user publish and ask; auto: beside the control "
        "socket, and none without it; off.",
        Option(metavar="PATH", at=RESTART),
    ] = AUTO
    bus_max_message: Annotated[
        int, "Longest payload of a message on the bus.", Option(unit="size", at=RESTART, ge=1, le=1024**2)
    ] = 1024**2
    bus_slow: Annotated[
        str,
        "What happens when more than --max-write-buffer waits for a connection that does not read what the bus has for "
        "it: it is closed, or its oldest messages are dropped.",
        Option(choices=(CLOSE, DROP_OLDEST), at=WORKERS),
    ] = CLOSE
