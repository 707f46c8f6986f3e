"""End states: in two letters, what ended a connection and in which phase, as HAProxy's log has them.

Law: derived here and nowhere else, from errors.End and what the connection was doing.

The first letter is who or what ended it: `-` nobody, it ended as it should; `C` the client broke it off; `c` the client
took too long; `H` the handler raised, aborted, or its process died; `h` the handler's own timeout; `P` a limit, a rule
or a policy; `R` there were no descriptors, processes or memory; `D` the server said goodbye (a drain, or
--max-connection-age); `K` the server cut it at the drain deadline, or the operator did.

The second letter is the phase: `-` it was complete; `A` in the accept queue; `P` at the PROXY header; `T` at the TLS
handshake; `D` while data went to and fro; `L` when all had been said, and the client had yet to take it.
"""

from __future__ import annotations

from pronghorn.connection.proxy_wait import TOO_LATE, WRONG
from pronghorn.errors import AGE, HANDSHAKE_TIMEOUT, WRITE_BUFFER, End
from pronghorn.scoreboard.connection_limits import POLICY

NORMAL = "--"
"""Of a conversation that came to its end."""
LETTERS = {
    End.DONE: "-",
    End.DRAINING: "D",
    End.ABORTED: "H",
    End.RESET: "C",
    End.TIMEOUT: "c",
    End.ERROR: "H",
    End.KILLED: "H",
    End.HANDSHAKE: "P",
    End.MOVED: "-",
    End.OPERATOR: "K",
}
LETTERS_OF_DETAILS = {AGE: "D", WRITE_BUFFER: "P", HANDSHAKE_TIMEOUT: "c"}
LETTERS_OF_FAULTS = {"TimeoutError": "h", "CancelledError": "h", "MemoryError": "R", "OutOfMemory": "R"}


def state_of_end(end: End, detail: str, *, faulty: bool, cut: bool, sealed: bool, unacknowledged: bool) -> str:
    """Of a connection that was served. `detail` may say more than `end`: the deadline, or an error's class. `faulty`:
    its handler has raised; `cut`: the drain deadline was over; `sealed`: it needed no TLS handshake, or is through
    with it."""
    if cut:
        first = "K"
    elif faulty:
        first = LETTERS_OF_FAULTS.get(detail, "H")
    elif end is End.ERROR and detail != End.ERROR:
        first = "P"  # the name of an error that is the peer's fault: what came is no message, or too long
    else:
        first = LETTERS_OF_DETAILS.get(detail) or LETTERS[end]
    if not sealed or end is End.HANDSHAKE:
        return first + "T"
    if unacknowledged:
        return ("c" if first == "-" else first) + "L"
    return first + ("-" if first == "-" else "D")


def state_of_refusal(limit: str) -> str:
    """Of a connection that was closed unserved."""
    if limit == TOO_LATE:
        return "cP"
    if limit == WRONG:
        return "PP"
    return "PA" if limit in POLICY else "RA"
