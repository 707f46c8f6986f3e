"""What the answers of a server have to look like for `pronghorn top`: which keys it reads, and what may stand there.

Law: a key may be missing, since a server may be older, and there may be others, since it may be newer; but what stands
under a key that is read is of the right kind, and within bounds. So nothing behind this file has to ask.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import msgspec

from pronghorn.errors import PronghornError, printable

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


class Queue(TypedDict):
    waiting: Count
    backlog: Count


class Counts(TypedDict, total=False):
    open: Count
    accepted: Count
    refused: Count | None
    messages: Count
    bytes_in: Count
    bytes_out: Count
    handler_errors: Count


class Listener(Counts, total=False):
    name: str
    listening: list[str]
    accept_queue: list[Queue | None]
    handler: str
    tls: str


class Fleet(TypedDict, total=False):
    wanted: Count
    ready: Count
    draining: Count


class Old(TypedDict, total=False):
    workers: Count


class Reload(TypedDict, total=False):
    ok: bool
    why: str


class BusCounts(TypedDict, total=False):
    publications: Count
    deliveries: Count
    slow_worker: Count
    slow_broker: Count


class Broker(TypedDict, total=False):
    up: bool
    why: str


class Bus(TypedDict, total=False):
    carrier: str
    names: Count
    members: Count
    counts: BusCounts
    broker: Broker | None


class Status(Counts, total=False):
    bus: Bus
    state: str
    name: str
    pid: Count
    uptime: Seconds
    generation: Count
    handler: str
    model: str
    listeners: list[Listener]
    workers: Fleet
    old: Old
    under_way: str | None
    last_reload: Reload | None
    kernel_listen_overflows: Count | None
    faults: Count


class Worker(Counts, total=False):
    slot: Count
    pid: Count
    generation: Count
    state: str
    age: Seconds
    beat_age: Seconds
    memory: Count | None
    cpu_seconds: Seconds | None
    service_times: list[tuple[Seconds | None, Count]] | None


class Workers(TypedDict):
    workers: list[Worker]


class Silent(TypedDict, total=False):
    worker: Count
    pid: Count
    open: Count


class Elsewhere(TypedDict, total=False):
    open: Count


class Connection(Counts, total=False):
    id: str
    worker: Count
    peer: str
    listener: str
    state: str
    age: Seconds
    idle: Seconds | None
    tls: dict[str, str | None] | None
    fields: dict[str, str]
    tcp_state: str | None
    rtt_us: Count | None
    retransmits: Count | None
    send_queue: Count | None
    receive_queue: Count | None


class Connections(TypedDict, total=False):
    connections: list[Connection]
    matched: Count
    silent: list[Silent]
    elsewhere: Elsewhere


class Ended(TypedDict):
    """Of kill-connection: ids."""

    ended: list[str]
    gone: list[str]


def checked(answer: Any, shape: Any) -> Any:
    """The answer itself. Raises PronghornError if it is of another shape."""
    try:
        msgspec.convert(answer, type=shape)
    except msgspec.ValidationError as error:
        why = f"{printable(str(error), kept='')}."
        raise PronghornError("The server's answer cannot be understood.", why, "Is it of another version?") from None
    return answer
