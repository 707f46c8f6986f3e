"""Publishing and asking over a link: what a caller gives, checked, and what the hub answers, as a result or an error.

Law: the same for workers and for clients in other processes, for threads and for coroutines; nothing here knows where
the link leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pronghorn.bus.errors import (
    BadBusMessage,
    BusError,
    BusLost,
    BusUnavailable,
    CannotAnswer,
    NoAnswer,
    NobodyThere,
    OtherHostsUnreached,
)
from pronghorn.bus.link import Link, result_of
from pronghorn.bus.wire import (
    ANSWERED,
    ASK,
    AWAY,
    FAILED,
    LATE,
    LONGEST_NAME,
    LONGEST_QUESTION,
    MUTE,
    NOBODY,
    PARTED,
    PUBLISH,
    TOO_LONG,
    UNREACHED,
)

MOST_LISTED = 1000  # by one call
PATIENCE = 5.0
"""Seconds that `publish` and `ask` wait, unless they are told otherwise."""

Linked = Callable[[], Link]
"""Gives the link, once what is asked has been checked: a client connects then."""
Name = str | bytes
Payload = bytes | bytearray | memoryview
To = Literal["all", "one"]
"""Whom a message reaches: all who have joined, or the one that has joined last."""


def name_of(name: Name) -> bytes:
    """A name as the bus carries it. Raises BadBusMessage, TypeError."""
    try:
        raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else bytes(memoryview(name))
    except TypeError:
        raise TypeError(f"a name on the bus is a str or bytes, not {type(name).__name__}") from None
    if not 0 < len(raw) <= LONGEST_NAME:
        hint = "Take a shorter name." if raw else "Take a name that is not empty."
        raise BadBusMessage(
            f"A name on the bus has from 1 to {LONGEST_NAME} bytes.", f"This one has {len(raw):,}.", hint
        )
    return raw


def seconds_of(timeout: float) -> float:
    """How long an answer may take, as the bus has it. Raises ValueError, TypeError."""
    if not hasattr(timeout, "__float__"):  # a str has none
        raise TypeError(f"a timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout <= LONGEST_QUESTION:
        raise ValueError(f"a timeout is in seconds, more than 0 and at most {LONGEST_QUESTION:,}; got {timeout!r}")
    return float(timeout)


def payload_of(payload: Payload, longest: int) -> bytes:
    """A payload as the bus carries it. Raises BadBusMessage, TypeError."""
    try:
        raw = bytes(memoryview(payload))
    except TypeError:
        kind = type(payload).__name__
        raise TypeError(f"a payload is bytes, not {kind}{': encode a str' if kind == 'str' else ''}") from None
    if len(raw) > longest:
        raise BadBusMessage(
            f"A payload on the bus has {len(raw):,} bytes.",
            f"--bus-max-message allows {longest:,}.",
            "Send less at once, or raise that.",
        )
    return raw


def shown(name: bytes) -> str:
    """A name, for messages."""
    return name.decode("utf-8", "backslashreplace")


def one_of(to: To) -> bool:
    """What `to` says. Raises ValueError."""
    if to not in ("all", "one"):
        raise ValueError(f"to is 'all' or 'one'; got {to!r}")
    return to == "one"


def listing_of(prefix: Name, limit: int) -> tuple[bytes, int]:
    """What names begin with, and how many are told. Raises BadBusMessage, ValueError, TypeError."""
    return name_of(prefix) if prefix or not isinstance(prefix, str | bytes) else b"", limit_of(limit)


def limit_of(limit: int) -> int:
    """How many are told. Raises ValueError, TypeError."""
    if not isinstance(limit, int):
        raise TypeError(f"a limit is a whole number, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"a limit is 1 or more; got {limit!r}")
    return min(limit, MOST_LISTED)


def count_of(result: Sequence[int]) -> int:
    """How many connections were reached. Raises BadBusMessage, OtherHostsUnreached."""
    if result[0] <= UNREACHED:
        raise OtherHostsUnreached(UNREACHED - result[0])
    if result[0] < 0:
        raise too_long()
    return result[0]


def too_long() -> BadBusMessage:
    why = "--bus-max-message of the server allows less."
    return BadBusMessage("The payload is too long.", why, "Send less at once, or raise that.")


def answer_of(name: bytes, status: int, payload: bytes, seconds: float) -> bytes:
    """The answer to a question, or the error that says why there is none."""
    if status == ANSWERED:
        return payload
    told = shown(name)
    errors: dict[int, BusError] = {
        NOBODY: NobodyThere(told),
        MUTE: CannotAnswer(told, "Its handler has no on_bus.", "Give it one, or join(name, on_bus=function)."),
        FAILED: CannotAnswer(told, "Its handler raised an exception; the server's log has it."),
        LATE: NoAnswer(told, seconds),
        TOO_LONG: too_long(),
        PARTED: BusLost("The broker went away meanwhile."),
        AWAY: BusUnavailable(
            "The broker is away, or the host that has the name.", "pronghorn ctl status tells the broker."
        ),
    }
    raise errors.get(status) or BusLost("Its connection has ended before it answered.")


def publish(linked: Linked, longest: int, name: Name, payload: Payload, to: To, seconds: float) -> int:
    """See pronghorn.bus.publish; a payload has `longest` bytes at most."""
    fields, within = (name_of(name), payload_of(payload, longest), one_of(to)), seconds_of(seconds)
    return count_of(linked().request(within, PUBLISH, *fields))


async def apublish(linked: Linked, longest: int, name: Name, payload: Payload, to: To, seconds: float) -> int:
    """See pronghorn.bus.apublish."""
    fields, within = (name_of(name), payload_of(payload, longest), one_of(to)), seconds_of(seconds)
    return count_of(await result_of(linked(), within, PUBLISH, *fields))


def ask(linked: Linked, longest: int, name: Name, payload: Payload, seconds: float) -> bytes:
    """See pronghorn.bus.ask."""
    fields = raw, *_ = name_of(name), payload_of(payload, longest), seconds_of(seconds)
    status, answer = linked().request(seconds + PATIENCE, ASK, *fields)  # the hub says when it is over
    return answer_of(raw, status, answer, seconds)


async def aask(linked: Linked, longest: int, name: Name, payload: Payload, seconds: float) -> bytes:
    """See pronghorn.bus.aask."""
    fields = raw, *_ = name_of(name), payload_of(payload, longest), seconds_of(seconds)
    status, answer = await result_of(linked(), seconds + PATIENCE, ASK, *fields)
    return answer_of(raw, status, answer, seconds)
