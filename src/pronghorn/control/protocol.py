"""One connection of the control socket: one request and one reply, each a line of JSON.

Law: nothing here waits, and nothing that comes over the connection raises. It knows the names of the commands and not
what they do.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Callable
from select import POLLOUT
from typing import Any, Protocol

import msgspec

from pronghorn.errors import BadRequest, PronghornError, nearest
from pronghorn.serving.connection_inquiry import Peers, Query
from pronghorn.settings.logs import LOG_LEVELS
from pronghorn.supervisor.poller import Done, Poller
from pronghorn.system.lines import LineReader

LONGEST_REQUEST = 64 * 1024
PATIENCE = 5.0  # seconds to send a request, and again to take the reply


class CommandSet(Protocol):
    """What can be asked; each calls `done` exactly once, with its result or its error, now or much later."""

    def status(self, done: Done) -> None: ...
    def workers(self, done: Done) -> None: ...
    def reload(self, done: Done) -> None: ...
    def upgrade(self, done: Done) -> None: ...
    def resize(self, count: int, done: Done) -> None: ...
    def drain(self, done: Done) -> None: ...
    def stop(self, done: Done) -> None: ...
    def stats(self, done: Done) -> None: ...
    def log_level(self, level: str, done: Done) -> None: ...
    def reopen(self, done: Done) -> None: ...
    def connections(self, query: Query, done: Done) -> None: ...
    def kill_connection(self, ids: list[str], done: Done) -> None: ...


COMMANDS = tuple(name.replace("_", "-") for name in vars(CommandSet) if not name.startswith("_"))
MOST_IDS = 2000
CONNECTION_ID = re.compile("[0-9]{1,10}-[0-9]{1,16}", re.ASCII)


class Call:
    """One connection of the control socket: reads a request, has it done, and writes the reply. `calls` are those that
    are open; it is one of them from `begin`, or `refuse`, to `close`."""

    __slots__ = tuple("_answered _asked _calls _commands _lines _output _poller _socket _unwanted deadline".split())

    def __init__(self, sock: socket.socket, poller: Poller, commands: CommandSet, calls: set[Call]) -> None:
        self.deadline = time.monotonic() + PATIENCE
        self._socket = sock
        self._poller = poller
        self._commands = commands
        self._calls = calls
        self._lines = LineReader(sock, LONGEST_REQUEST)
        self._output = bytearray()
        self._asked = False
        self._answered = False
        self._unwanted = 0  # bytes that may still come of a request that is not read; 0 if it is

    def begin(self) -> None:
        self._calls.add(self)
        self._poller.add(self._socket, self._read)

    def refuse(self, error: PronghornError) -> None:
        """Answers without a request, and lingers: to close at once would reset a caller that is still sending."""
        self._calls.add(self)
        self._unwanted = LONGEST_REQUEST
        self.answer(error)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._calls.discard(self)
            self._poller.remove(self._socket)
            self._socket.close()

    def late(self) -> None:
        """The time for the request, or for taking the reply, is over."""
        if self._asked or self._answered:
            self.close()
        else:
            self.answer(BadRequest(f"No request came within {PATIENCE:g} s.", "It takes one line of JSON."))

    def answer(self, result: dict[str, Any] | PronghornError) -> None:
        """Sends the reply and closes; what comes after the first answer, or after the caller has left, is dropped."""
        if self._answered or self._socket.fileno() < 0:
            return
        self._answered = True
        self.deadline = time.monotonic() + PATIENCE
        self._output += encoded(result) + b"\n"
        self._write()

    def _read(self) -> None:
        lines = self._lines.take()
        if lines:
            self._ask(lines[0])
        elif self._lines.too_long:
            self.refuse(BadRequest(f"The request is longer than {LONGEST_REQUEST} bytes."))
        elif self._lines.rest and self._lines.ended:  # a caller that has half-closed needs no LF
            self._ask(bytes(self._lines.rest))
        elif self._lines.ended:
            self.close()

    def _ask(self, line: bytes) -> None:
        self._asked = True
        self.deadline = math.inf
        self._poller.add(self._socket, self.close, 0)  # a hang-up alone: who has half-closed still wants the reply
        command = ""
        try:
            command, arguments = understood(line)
            getattr(self._commands, command.replace("-", "_"))(*arguments, self.answer)
        except PronghornError as error:
            self.answer(error)
        except Exception as error:
            self.answer(PronghornError("The server failed to do it.", f"{type(error).__name__}: {error}"))
            self._poller.guard.note(f"obey ctl {command}", error)

    def _write(self) -> None:
        try:
            del self._output[: self._socket.send(self._output)]
        except BlockingIOError:
            pass
        except OSError:
            return self.close()
        if not self._output and self._unwanted:
            self._linger()
        elif not self._output:
            self.close()
        elif self in self._calls:
            self._poller.add(self._socket, self._write, POLLOUT)

    def _linger(self) -> None:
        """The reply is out, and ends; what comes is discarded until the caller's end, within a bound."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return self.close()
        self._poller.add(self._socket, self._discard)

    def _discard(self) -> None:
        try:
            more = len(self._socket.recv(65536))
        except BlockingIOError:
            return
        except OSError:
            more = 0
        self._unwanted -= more
        if not more or self._unwanted <= 0:
            self.close()


def understood(line: bytes) -> tuple[str, list[Any]]:
    """The command of one request, and its arguments. Raises BadRequest."""
    try:
        request = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("That is no JSON.", f"{error}.", 'For example: {"command": "status"}') from None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise BadRequest("That is no request.", "It names no command.", 'For example: {"command": "status"}')
    command = request.pop("command")[:40]
    if command not in COMMANDS:
        raise BadRequest(f"There is no command {command!r}.", hint=nearest(command, COMMANDS))
    arguments = ARGUMENTS[command](request) if command in ARGUMENTS else []
    if request:
        raise BadRequest(f"{command} takes no {min(request)[:40]!r}.")
    return command, arguments


def _count(request: dict[str, Any]) -> list[Any]:
    count = request.pop("count", None)
    if type(count) is not int or count < 1:
        hint = 'For example: {"command": "resize", "count": 3}. For no worker at all: {"command": "drain"}.'
        raise BadRequest("resize takes a count, a whole number from 1.", hint=hint)
    return [count]


def _level(request: dict[str, Any]) -> list[Any]:
    level = request.pop("level", None)
    if level not in LOG_LEVELS:
        hint = 'For example: {"command": "log-level", "level": "debug"}'
        raise BadRequest(f"log-level takes a level: {', '.join(LOG_LEVELS)}.", hint=hint)
    return [level]


def _query(request: dict[str, Any]) -> list[Any]:
    try:
        query = msgspec.convert(request, Query)
        Peers(query.peer)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        hint = 'For example: {"command": "connections", "older": 3600, "sort": "idle", "limit": 20}'
        raise BadRequest("That asks for no connections.", f"{str(error)[:200]}.", hint) from None
    request.clear()
    return [query]


def _ids(request: dict[str, Any]) -> list[Any]:
    ids = request.pop("ids", None)
    if not isinstance(ids, list) or not 1 <= len(ids) <= MOST_IDS:
        hint = 'For example: {"command": "kill-connection", "ids": ["12411-37"]}'
        raise BadRequest(f"kill-connection takes ids, a list of 1 to {MOST_IDS}.", hint=hint)
    for each in ids:
        if not isinstance(each, str) or not CONNECTION_ID.fullmatch(each):
            why = "An id is PID-NUMBER: the worker's process id, and the number of the connection there."
            raise BadRequest(f"{str(each)[:40]!r} is no id of a connection.", why, "See: pronghorn ctl connections")
    return [ids]


ARGUMENTS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "resize": _count,
    "log-level": _level,
    "connections": _query,
    "kill-connection": _ids,
}
"""The arguments of commands that take some, out of a request."""


def encoded(result: dict[str, Any] | PronghornError) -> bytes:
    """A reply, without the end of its line."""
    if isinstance(result, PronghornError):
        return msgspec.json.encode({"ok": False, "error": result.parts()})
    return msgspec.json.encode({"ok": True, "result": result})
