"""Settings of admission: who may connect, and how many."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import RESTART, Option
from pronghorn.settings.lifecycle import Lifecycle

OFF, BUS = "off", "bus"


class Admission(Lifecycle, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which connections are accepted."""

    allow: Annotated[
        tuple[str, ...],
        "Network whose peers may connect, as 10.0.0.0/8 or 2001:db8::/32. Of allow and deny the narrowest network "
        "decides; with an allow, whoever is in no network is denied.",
        Option(metavar="NETWORK", unit="network", own=True),
    ] = ()
    deny: Annotated[
        tuple[str, ...], "Network whose peers may not connect.", Option(metavar="NETWORK", unit="network", own=True)
    ] = ()
    proxy_from: Annotated[
        tuple[str, ...],
        "Network of proxies, whose connections must begin with a PROXY protocol header (v1 or v2) and nobody else's; "
        "'unix' is everybody at a unix socket.",
        Option(metavar="NETWORK", unit="network or unix", own=True),
    ] = ()
    max_connections: Annotated[
        int | None,
        "Most connections at a time, of all workers together; the next client waits in the kernel's queue. Without "
        "this, what the model and the limit of descriptors allow.",
        Option(ge=1, own=True),
    ] = None
    max_connections_per_source: Annotated[
        int,
        "Most connections at a time of one IPv4 address or IPv6 /64, of all workers together; the next is closed. 0 "
        "is no limit.",
        Option(ge=0, own=True),
    ] = 0
    accept_rate: Annotated[
        int,
        "Most new connections in a second, of all workers together; those beyond are closed. 0 is no limit.",
        Option(ge=0, own=True),
    ] = 0
    accept_rate_per_source: Annotated[
        int,
        "Most new connections in a second of one IPv4 address or IPv6 /64, of all workers together; those beyond are "
        "closed. 0 is no limit.",
        Option(ge=0, own=True),
    ] = 0
    shared_limits: Annotated[
        str,
        "Whether max-connections-per-source and accept-rate count over all hosts: bus, by the broker of --bus, or off. "
        "A broker that is away leaves each host with its own limits.",
        Option(choices=(OFF, BUS), at=RESTART),
    ] = OFF
    message_rate_per_source: Annotated[
        int,
        "Most messages in a second of one IPv4 address or IPv6 /64, of all workers together, for message handlers: "
        "others wait, and meanwhile nothing is read. 0 is no limit.",
        Option(ge=0, own=True),
    ] = 0
    crash_penalty: Annotated[
        float,
        "How long a source is refused that workers die of: the one that was connected at death after death. Twice as "
        "long each time, up to 10 minutes. Never loopback, a unix socket or a proxy; 0 refuses nobody.",
        Option(unit="time", ge=0),
    ] = 10.0
