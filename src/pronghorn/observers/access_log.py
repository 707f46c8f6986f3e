"""The access log: one record for each connection at its end, through a pipe to the process that writes its line.

Law: nothing is written here that may wait. The pipe is the server's own and does not block; a record is a line of JSON
no longer than the pipe takes in one piece (PIPE_BUF), so that those of many processes never mix, and what it does not
take is dropped, counted, and told once in ten seconds. How the line of a connection looks is the business of the
process that writes it (access_format.py): to write it here would cost a worker three times as much.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pronghorn.errors import End, printable
from pronghorn.events import (
    AccessLogDropped,
    AccessLogSet,
    ConnectionClosed,
    ConnectionRefused,
    DrainFinished,
    Event,
    Observer,
)
from pronghorn.settings.access_format import READY
from pronghorn.system.stdio import dropped

LONGEST = min(select.PIPE_BUF, 4096)  # bytes of a record
LONGEST_NAME, LONGEST_VALUE = 64, 256  # characters, where a record would be longer
ROOM = 1024 * 1024  # bytes that wait for the process that writes
HIGH = 64  # the lowest number of the pipe's descriptors: those below are soon given out anew
QUIET = 10.0  # seconds between two records of what was dropped
MOST_REFUSALS = 100  # lines in a second, of one process: the rest is counted
SIZE: int = getattr(fcntl, "F_GETPIPE_SZ", 0)
FULL = "the process that writes it does not keep up"
FLOOD = f"more than {MOST_REFUSALS} refusals in a second"

Told = ConnectionClosed | ConnectionRefused
Peer = tuple[str, int] | str
Note = Callable[[Peer, int, float, float | None, int, int, int], None]
_encode = msgspec.json.Encoder().encode
_members = msgspec.structs.astuple


def record(event: Told, now: float) -> bytes:
    """What the process is sent of an event that came `now` (wall clock): its members in their order, in one line."""
    try:
        data: bytes = _encode((now, *_members(event)))
        if len(data) < LONGEST:
            return data + b"\n"
    except UnicodeEncodeError:  # a path that is no text
        pass
    members: list[Any] = [_short(each) for each in _members(event)]
    fields = [(_short(name)[:LONGEST_NAME], _short(value)) for name, value in getattr(event, "fields", ())]
    if isinstance(event, ConnectionClosed):
        place = event.__struct_fields__.index("fields")
        members[place] = fields
        while fields and len(_encode((now, *members))) >= LONGEST:
            fields.pop()
    data = _encode((now, *members))
    if len(data) >= LONGEST:  # all texts of a peer are as long as they may be, or the pipe takes little at once
        data = _encode((now, *(each[:32] if isinstance(each, str) else each for each in members)))
    return data + b"\n"


def plain(record: Sequence[Any]) -> ConnectionClosed:
    """The event of a record that AccessLog.notes has made, without its first member but one: `now`."""
    (pid, worker, generation, listener), peer, number, seconds, first, bytes_in, bytes_out, messages = record
    return ConnectionClosed(
        number,
        peer,
        End.DONE,
        seconds,
        bytes_in,
        bytes_out,
        messages,
        id=f"{pid}-{number}",
        first_byte=first,
        worker=worker,
        generation=generation,
        listener_name=listener,
    )


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(each) for each in value]
    return printable(value, LONGEST_VALUE, "") if isinstance(value, str) else value


class AccessLog:
    """Off until `AccessLogSet` names a path, in the supervisor or in a worker; then `hears` of connections. `tell` is
    called with events of the access log itself; `changed`, in the process that made this object, with each new path and
    format. `clock` is monotonic."""

    def __init__(
        self, tell: Observer, changed: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._changed, self._clock = tell, changed, clock
        self._owner = os.getpid()
        self._on = False
        self._pipe: tuple[int, ...] = ()  # what `_fd` leads to
        self._size = 0  # the same, where that is told by the pipe's size
        self._fd = self.lines = -1
        """Where lines are written, and where they are read."""
        self.wants_first_byte = False
        self._dropped: dict[str, int] = {}
        self._tell_at = 0.0
        self._second, self._refusals = 0.0, 0
        self._waiting: list[bytes] = []  # records, each without its end of line

    def __call__(self, event: Event) -> None:
        if self._waiting:  # they come first
            self.flush()
        if self._on and type(event) is ConnectionClosed:
            if not event.probe:
                self._write(record(event, time.time()))
        elif self._on and isinstance(event, ConnectionRefused):
            if self._refusal_fits():
                self._write(record(event, time.time()))
        elif isinstance(event, AccessLogSet):
            self._set(event)
        elif isinstance(event, DrainFinished):
            self.tell_dropped()

    def notes(self, pid: int, worker: int, generation: int, listener: str, gather: bool = False) -> Note | None:
        """What notes the end of a connection of this listener that is a plain one, with nothing to be told but how much
        there was and for how long: as ConnectionClosed with its other members as they are by default, which takes
        three times as long to make. None where it cannot be noted like that. With `gather` the records wait for
        `flush`, which writes those of many ends at once."""
        try:
            facts = msgspec.Raw(_encode((pid, worker, generation, listener[:LONGEST_VALUE])))
        except UnicodeEncodeError:
            return None
        write, clock, waiting = self._write, time.time, self._waiting

        def note(
            peer: Peer, number: int, seconds: float, first: float | None, bytes_in: int, bytes_out: int, messages: int
        ) -> None:
            try:
                data = _encode((facts, clock(), peer, number, seconds, first, bytes_in, bytes_out, messages))
            except UnicodeEncodeError:  # a path that is no text
                peer = _short(peer)
                data = _encode((facts, clock(), peer, number, seconds, first, bytes_in, bytes_out, messages))
            if gather:
                waiting.append(data)
            else:
                write(data + b"\n")

        return note

    def flush(self) -> None:
        """Write the records that wait, as many in one piece as the pipe takes whole."""
        waiting = self._waiting
        while waiting:
            count = len(waiting)
            while count > 1 and sum(map(len, waiting[:count])) + count > LONGEST:
                count -= -(-count // 8)
            piece = waiting[:count]
            del waiting[:count]
            self._write(*[each + b"\n" for each in piece])

    def hears(self, kind: type[Event]) -> bool:
        return kind in (AccessLogSet, DrainFinished) or (self._on and kind in (ConnectionClosed, ConnectionRefused))

    def close(self) -> None:
        """Closes the pipe's end to write; what waits in it can still be read."""
        self.flush()
        if self._fd >= 0 and _identity(self._fd) == self._pipe:
            os.close(self._fd)
        self._fd = -1

    def tell_dropped(self) -> None:
        """Tells what was dropped since it was told last, if anything."""
        for why, count in self._dropped.items():
            self._tell(AccessLogDropped(count, why))
        self._dropped.clear()

    def _set(self, event: AccessLogSet) -> None:
        if event.path and self._fd < 0:
            if os.getpid() != self._owner:
                return  # without a pipe from before the fork there is none
            self._open_pipe()
        if event.planned:
            return
        self._on = bool(event.path)
        self.wants_first_byte = self._on and (event.form in READY or "first_byte" in event.form)
        if os.getpid() == self._owner:
            self._changed(event.path, event.form)

    def _open_pipe(self) -> None:
        self.lines, self._fd = (_moved_up(each) for each in os.pipe())
        for fd in (self.lines, self._fd):
            os.set_blocking(fd, False)
        try:
            fcntl.fcntl(self._fd, getattr(fcntl, "F_SETPIPE_SZ", -1), ROOM)
        except OSError:
            pass  # as large as this system makes it (pipe(7))
        self._pipe = _identity(self._fd)
        self._size = self._pipe[0]

    def _write(self, *lines: bytes) -> None:
        """Write these lines, which the pipe takes in one piece, or none of them."""
        try:
            leads = fcntl.fcntl(self._fd, SIZE) == self._size if SIZE else _identity(self._fd) == self._pipe
            if not leads:  # a handler has closed it, and its number is a client's
                raise OSError
            os.write(self._fd, b"".join(lines))
        except OSError:  # it is full; or has lost its reader, with the supervisor
            if len(lines) > 1:  # there may be room for some
                for line in lines:
                    self._write(line)
            else:
                self._drop(FULL)
        else:
            if self._dropped and self._clock() >= self._tell_at:
                self._tell_now()

    def _refusal_fits(self) -> bool:
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._refusals = now, 0
        self._refusals += 1
        if self._refusals > MOST_REFUSALS:
            self._drop(FLOOD)
        return self._refusals <= MOST_REFUSALS

    def _drop(self, why: str) -> None:
        self._dropped[why] = self._dropped.get(why, 0) + 1
        dropped["access"] += 1
        if self._clock() >= self._tell_at:
            self._tell_now()

    def _tell_now(self) -> None:
        self._tell_at = self._clock() + QUIET
        self.tell_dropped()


def _moved_up(fd: int) -> int:
    """A descriptor from `HIGH` on in the place of this one; or the same, where the limit (ulimit -n) is that low."""
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
    except OSError:
        return fd
    os.close(fd)
    return high


def _identity(fd: int) -> tuple[int, ...]:
    """What a descriptor leads to: a pipe, by its size, which no other here has, and which no socket has; elsewhere than
    on Linux, by device and inode, which it takes longer to ask for."""
    try:
        if SIZE:
            return (fcntl.fcntl(fd, SIZE),)
        status = os.fstat(fd)
    except OSError:
        return ()
    return status.st_dev, status.st_ino
