"""Every error that Pronghorn raises on purpose.

Law: one class per thing a person can act on. A message says what happened, why, and what to do next; the three
parts are kept apart, so that a terminal, a log record and a JSON reply can each lay them out in their own way.
`exit_code` is what the command returns when the error ends it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

LONGEST_PART = 4096


class End(enum.StrEnum):
    """Why a connection ended: the words that are counted, and told by events.ConnectionClosed. The scoreboard keeps the
    counters in this order."""

    DONE = "done"
    DRAINING = "draining"
    ABORTED = "aborted"
    RESET = "reset"
    TIMEOUT = "timeout"
    ERROR = "error"
    KILLED = "killed"
    HANDSHAKE = "handshake"
    MOVED = "moved"
    OPERATOR = "operator"


# Details of an End, for the log: the deadline, or another cause. The name of an error's class may stand in their place.
IDLE, MESSAGE_TIMEOUT, WRITE_TIMEOUT = "idle", "message timeout", "write timeout"
MOVED = "moved"
"""Not the end of a connection, but of its stay in this process: another worker has it."""
AGE, TRUNCATED, WRITE_BUFFER = "age", "truncated", "write buffer"
HANDSHAKE_TIMEOUT = "handshake timeout"
REPLACED = "replaced"


def printable(text: str, longest: int = LONGEST_PART, kept: str = "\n") -> str:
    """What another process said, as text for a terminal: at most `longest` characters, and each that is not printable
    written as an escape, but for those that are `kept`."""
    told = text if len(text) <= longest else text[: longest - 3] + "..."
    if told.isprintable():
        return told
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape", "backslashreplace").decode()
        for each in told
    )


def as_text(value: object) -> str:
    """A value of a handler's as text: bytes as the UTF-8 that they are, what is none as escapes; of a value that cannot
    be text, its class."""
    try:
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes | bytearray) else str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the nearest right word, or all of them."""
    from difflib import get_close_matches  # here: workers import this file, and need no difflib

    words = list(words)
    begun = [each for each in words if len(word) > 2 and each.startswith(word.lower())]
    close = begun if len(begun) == 1 else get_close_matches(word.lower(), words, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Choose one of: {', '.join(words)}."


class PronghornError(Exception):
    """The base of all errors raised on purpose.

    `what` happened, `why`, and the `hint`: what to do next. `why` and `hint` may be empty. `args` are what the class
    was called with, so an error comes back from another process (a pool of them, Celery, by pickle or by JSON) as what
    it was.
    """

    exit_code = 1
    what = why = hint = ""

    def __new__(cls, *given: object, **_named: object) -> Self:
        error = super().__new__(cls)
        error.args = given  # here, since an OSError's __new__ leaves it out
        return error

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        self.what = what
        self.why = why
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[..., PronghornError], tuple[object, ...], dict[str, Any]]:
        return _again, (type(self), *self.args), self.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(part) for part in (self.what, self.why, self.hint) if part)})"

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.hint) if part)

    @property
    def explanation(self) -> str:
        """The error in one piece, for a record; one without a `why` is explained by its hint."""
        return "\n".join(part for part in (self.what, self.why or self.hint) if part)

    def parts(self, *, kind: bool = False) -> dict[str, str | int]:
        """The error as plain values, for JSON; with its `kind` (the name of its class), and bounded,
        for `from_parts` in another process."""
        most = LONGEST_PART if kind else None
        parts = {"what": self.what[:most], "why": self.why[:most], "hint": self.hint[:most]}
        return {**({"kind": type(self).__name__} if kind else {}), **parts, "exit_code": self.exit_code}


def _again(kind: type[PronghornError], *given: object) -> PronghornError:
    """An error that was pickled, before its attributes are set again."""
    return kind.__new__(kind, *given)


class BadSetting(PronghornError):
    """A setting has a value that it cannot have."""

    exit_code = 2


class BadCertificate(BadSetting):
    """A certificate or key that TLS was told to use cannot be used."""


class BadRequest(PronghornError):
    """What came over the control socket is no request."""

    exit_code = 2


class MissingExtra(PronghornError):
    """An optional package that this feature needs is not installed, or the system lacks the call."""

    exit_code = 2


class IncompatibleHandler(PronghornError):
    """The handler's style cannot run under the chosen model."""

    exit_code = 2


class WorkerFailedToStart(PronghornError):
    """No worker became ready."""

    exit_code = 3


class NotInWorker(PronghornError):
    """`pronghorn.worker()` was called in a process that is no worker, or before it is known which one."""

    def __init__(self) -> None:
        super().__init__(
            "This is no worker, or not yet.",
            "The handler's module is imported by processes that are no workers, too.",
            "Call pronghorn.worker() in the handler, or in its lifespan.",
        )


class BadHandler(PronghornError):
    """The handler cannot be imported, or nothing says what style it is."""

    exit_code = 4


class CannotBind(PronghornError):
    """A listener could not be opened at `address`, which is written as `--bind` takes it."""

    exit_code = 5
    address = ""

    def __init__(self, what: str, why: str = "", hint: str = "", address: str = "") -> None:
        super().__init__(what, why, hint)
        self.address = address


class AddressInUse(CannotBind):
    """Another socket holds the address, for a bind with these options."""

    reuse_address = True
    reuse_port = False


class AlreadyRunning(CannotBind):
    """A server of that name is running, and has the control socket at `address`."""


class DescriptorLost(PronghornError):
    """A connection's descriptor was closed behind the server's back; its number may be another's by now."""

    reason = "error"

    def __init__(self) -> None:
        super().__init__(
            "the connection's descriptor was closed by the handler, by its number (os.close(), or a socket object made "
            "from it); to end a connection close its transport, to have a descriptor of your own copy it: dup()"
        )


class PeerError(PronghornError):
    """The base of what is the peer's fault: it ends that one connection and is no error of the server."""


class PeerTimeout(PeerError):
    """The peer took longer than a deadline allows; `reason` is which one: idle, message timeout, write timeout."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the peer took too long: {reason}")
        self.reason = reason


class EndedByOperator(PeerError, ConnectionAbortedError):
    """A person has ended the connection: `pronghorn ctl kill-connection`."""

    reason = End.OPERATOR

    def __init__(self) -> None:
        super().__init__("the operator ended the connection (ctl kill-connection)")


class Replaced(PeerError, ConnectionAbortedError):
    """Another connection has joined a name of the bus that this one had, and wants it alone."""

    reason = REPLACED

    def __init__(self) -> None:
        super().__init__("another connection has taken its name over (join with exclusive=True)")


class TooMuchUnsent(PeerError):
    """The handler went on writing although the peer takes less than it is sent; more than `max_write_buffer` waits."""

    reason = WRITE_BUFFER

    def __init__(self, unsent: int) -> None:
        super().__init__(
            f"{unsent} bytes are unsent, and the handler writes more",
            "The peer does not read as fast as it is sent to.",
            "Wait for the peer (pause_writing, drain()), or raise --max-write-buffer.",
        )


class BadMessage(PeerError):
    """What came cannot be a message of the handler's framing.

    `complete` holds the messages that were cut from the same input before it.
    """

    complete: list[Any]

    def __init__(self, what: str, complete: list[Any] | None = None) -> None:
        super().__init__(what, hint="Does the client speak this protocol? If it does, the framing is another one.")
        self.complete = complete if complete is not None else []


class MessageTooLong(BadMessage):
    """A message is longer than `max_message_size`, which counts the payload in bytes."""

    def __init__(self, limit: int, complete: list[Any] | None = None) -> None:
        super().__init__(f"a message is longer than {limit} bytes", complete)
        self.hint = "Raise --max-message-size to let it through (or the framing's own max, if that is less)."
        self.limit = limit


class TlsFailed(PeerError, ConnectionError):
    """What came cannot be what the peer sealed: the connection is lost, as one that was reset."""

    def __init__(self, what: str) -> None:
        super().__init__(what)


class HandshakeFailed(TlsFailed):
    """The peer and we did not come to terms, or not in time."""


class HandshakeTimeout(HandshakeFailed):
    """The peer did not finish the handshake in time."""

    reason = HANDSHAKE_TIMEOUT

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it did not finish the handshake within {seconds:g} s")


class BadProxyHeader(PeerError):
    """A connection from a proxy does not begin with a PROXY protocol header."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the PROXY header is wrong: {why}")


def reason_of(error: BaseException) -> str:
    """Why an error ends a connection, in a word or two. A user's class may have a `reason` of its own, which may be
    anything, and raise."""
    reason = error.reason if isinstance(error, PronghornError) and hasattr(error, "reason") else None
    return reason if isinstance(reason, str) else type(error).__name__


def end_of(detail: str) -> End:
    """What is counted for an End, a detail of one, or the name of an error's class."""
    return ENDS.get(detail, _ERROR)


_ERROR = End.ERROR  # an access to the class calls a function (Python 3.11), and this is done for each connection
ENDS: dict[str, End] = {
    **{each: each for each in End},
    **dict.fromkeys((IDLE, MESSAGE_TIMEOUT, WRITE_TIMEOUT, "PeerTimeout", "TimeoutError"), End.TIMEOUT),
    **dict.fromkeys((AGE, TRUNCATED), End.DONE),
    **dict.fromkeys((WRITE_BUFFER, REPLACED, "ConnectionAbortedError"), End.ABORTED),
    **dict.fromkeys(("ConnectionResetError", "BrokenPipeError", "TlsFailed"), End.RESET),
    **dict.fromkeys(("HandshakeFailed", HANDSHAKE_TIMEOUT), End.HANDSHAKE),
}


def from_parts(parts: Mapping[str, Any]) -> PronghornError:
    """The error whose `parts` another process has sent. None of them is believed: a class that is not one of these, or
    that is the peer's fault, becomes PronghornError, and the text is bounded and printable."""
    kind = globals().get(str(parts.get("kind")))
    if not (isinstance(kind, type) and issubclass(kind, PronghornError)) or issubclass(kind, PeerError):
        kind = PronghornError
    error = kind.__new__(kind)
    PronghornError.__init__(error, *(printable(str(parts.get(part) or "")) for part in ("what", "why", "hint")))
    code = parts.get("exit_code")
    if isinstance(code, int) and 0 < code < 126:
        error.exit_code = code
    return error
