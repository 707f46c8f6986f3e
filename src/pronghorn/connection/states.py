"""The states of a connection and the table of their transitions; which errors are the peer's fault."""

from __future__ import annotations

import enum
import errno

from pronghorn.errors import PeerError

PEER_GONE = frozenset(
    {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ETIMEDOUT, errno.ESHUTDOWN}
    | {errno.EHOSTUNREACH, errno.ENETUNREACH}
)


class State(enum.Enum):
    """Where a connection is. HALF_CLOSED: one side has said its last word, the other may still speak."""

    OPENING = "opening"
    OPEN = "open"
    HALF_CLOSED = "half closed"
    CLOSING = "closing"
    CLOSED = "closed"

    __hash__ = object.__hash__  # enum's is Python code


TRANSITIONS: dict[State, frozenset[State]] = {
    State.OPENING: frozenset({State.OPEN, State.CLOSING, State.CLOSED}),
    State.OPEN: frozenset({State.OPENING, State.HALF_CLOSED, State.CLOSING, State.CLOSED}),
    State.HALF_CLOSED: frozenset({State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


def moved(current: State, target: State) -> State:
    """`target`, if the table allows the step from `current`; else RuntimeError, which is a fault of ours."""
    if target is not current and target not in TRANSITIONS[current]:
        raise RuntimeError(f"a connection cannot go from {current.value} to {target.value}")
    return target


def is_peers_fault(error: BaseException) -> bool:
    """Whether an error says no more than that the peer went away or broke a rule."""
    if isinstance(error, (PeerError, ConnectionError)):
        return True
    return isinstance(error, OSError) and error.errno in PEER_GONE
