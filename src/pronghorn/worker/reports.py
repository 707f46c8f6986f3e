"""What a worker and its supervisor say to each other, over one pair of sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pronghorn.system.lines import LineReader

if TYPE_CHECKING:
    pass


CUT_AT_DEADLINE = 6


LONGEST_TRACE = 32 * 1024
LONGEST_WORD = 1024 * 1024  # bytes


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The handler is loaded, and the model has entered its loop."""


class Stage(msgspec.Struct, tag=True, frozen=True):
    """What the worker sets about, on its way to being ready: what to name if it never gets there."""

    what: str


class LetGo(msgspec.Struct, tag=True, frozen=True):
    """It drains, and has let go of its listeners: whom it has not accepted yet, others will."""


class Asked(msgspec.Struct, tag=True, frozen=True):
    """Somebody else than the supervisor has sent it SIGTERM: shall it finish?"""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The worker cannot start: the parts of the error (errors.from_parts)."""

    parts: dict[str, str | int]


class Crashed(msgspec.Struct, tag=True, frozen=True):
    """The model raised, which is a fault of the server."""

    trace: str


class Finished(msgspec.Struct, tag=True, frozen=True):
    """The drain is over; `cut` connections did not finish in time."""

    cut: int


Report = Ready | Stage | LetGo | Asked | Failed | Crashed | Finished


class Release(msgspec.Struct, tag=True, frozen=True):
    """To the worker: let go of the listeners, and go on with the connections that there are until they end by
    themselves. Nobody else serves those whose addresses are `alone`: who waits there is accepted before."""

    alone: tuple[str, ...] = ()


class Finish(msgspec.Struct, tag=True, frozen=True):
    """To the worker: drain. Said before the signal, which a handler or its library may have taken."""

    why: str


Word = Release | Finish


_words = msgspec.json.Decoder(Word)


class Line:
    """The worker's end of its socketpair: reports go out and words come in as JSON lines. `hear` is given each word;
    `gone` is called at the end of the line, when there is no supervisor any more."""

    __slots__ = ("_gone", "_hear", "_lines", "_silence", "_socket")

    def __init__(
        self, end: socket.socket, gone: Callable[[], None], hear: Callable[[Word], None] = lambda word: None
    ) -> None:
        self._socket = end
        self._silence: tuple[socket.socket, ...] = ()
        self._gone = gone
        self._hear = hear
        self._lines = LineReader(end, LONGEST_WORD)

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, report: Report) -> None:
        """Sends one report. A supervisor that is gone hears nothing, and that is no error."""
        try:
            self._socket.setblocking(True)
            self._socket.sendall(msgspec.json.encode(report) + b"\n")
        except OSError:
            pass

    def on_readable(self) -> None:
        """Takes what the supervisor says; at the end of the line it is gone."""
        for line in self._lines.take():
            with contextlib.suppress(msgspec.MsgspecError):  # a forked process that shares the line has read a part
                self._hear(_words.decode(line))
        if self._lines.ended:
            self._gone()
            self._fall_silent()

    def may_finish(self) -> bool:
        """Whether the supervisor has said to finish, or is gone. If it has not, it is asked: the whole process group
        may have got a signal, and then clients are kept out first. Nothing is taken off the line, so that a signal
        handler may call this whatever it interrupts."""
        try:
            said = self._socket.recv(4096, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            said = b"nothing"
        except OSError:
            said = b""
        if said and b'"Finish"' not in said:
            self.tell(Asked())
            return False
        return True

    def close(self) -> None:
        """Lets go of this process's descriptor, as a child does that shall not speak for the worker."""
        for end in (self._socket, *self._silence):
            end.close()

    def _fall_silent(self) -> None:
        # A line at its end stays readable, and every loop that still turns would spin on it: put a descriptor that
        # is never readable in its place. The loop's own bookkeeping goes by the number, which stays the same.
        self._silence = socket.socketpair()
        os.dup2(self._silence[0].fileno(), self._socket.fileno(), inheritable=False)
