"""A running server: found by its name, and asked by one line of JSON.

Law: nothing here prints. An answer is trusted as far as the folder is that the socket stands in.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

from pronghorn.control import paths
from pronghorn.errors import PronghornError, from_parts
from pronghorn.system.lines import LineReader

HURRY = 1.5  # seconds of silence after which a person likes to hear what we wait for
LINGER = 5.0  # seconds that a server gets to be gone after it has said that it is
LONGEST_REPLY = 64 * 1024 * 1024  # bytes: a thousand workers take less than one
AT_ONCE = "It answers this at once: its supervisor is stopped, or the machine is very busy.", "Look at its process."
GOES_ON = "It goes on with what it was asked.", "See how it is with: pronghorn ctl status"
START = "Start one with: pronghorn serve"


class NoServer(PronghornError):
    """No server answers."""


def find(name: str, note: str = "", likely: Callable[[], str] = str) -> str:
    """The socket of the server of that name; without one, of the only server that is running, or of several the one
    that has the `likely` name. Raises NoServer, with `note` in front of its reason."""
    found, wrong = paths.sockets()
    state = {path: _listens(path) for path in found}
    live, shut = ([path for path in found if state[path] is each] for each in (True, None))
    if name:
        matching = _of_name(live, name) or _of_name(shut, name)  # what is shut says why when it is asked
        if not matching:
            hint = "Name one of these with --name." if live else START
            raise NoServer(f"No server named {name} is running.", note + _who(live, wrong), hint)
        return matching[0]
    if not live and len(shut) == 1:
        return shut[0]
    if not live:
        raise NoServer("No server is running that this user can control.", note + _who(live, wrong), START)
    if len(live) > 1:
        named = _of_name(live, likely())
        if named:
            return named[0]
        hint = f"Choose one, for example: pronghorn ctl status --name {_name(live[0])}"
        raise NoServer(f"{len(live)} servers are running.", note + _who(live, []), hint)
    return live[0]


def ask(
    path: str,
    request: dict[str, Any],
    seconds: float,
    waiting: Callable[[], None] = lambda: None,
    *,
    at_once: bool = False,
) -> Any:
    """The result of one request, within `seconds`; `waiting` is called once if it takes a while. `at_once` says that a
    server which is well answers this request without delay.

    Raises NoServer if nobody answers, the server's own error otherwise.
    """
    deadline = time.monotonic() + seconds
    with _connected(path) as sock:
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            pass  # a server that has hung up may have said why
        line = _reply(sock, path, deadline, AT_ONCE if at_once else GOES_ON, waiting)
    try:
        reply = json.loads(line)
        if reply["ok"]:
            return reply["result"]
        refusal = from_parts(reply["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NoServer(f"What listens at {path} is no Pronghorn server.", "Its reply is none of ours.") from None
    raise refusal


def wait_until_gone(path: str) -> None:
    """Waits for a server that has stopped to remove its socket and the lock beside it, which goes last, so that the
    next one can start at once."""
    deadline = time.monotonic() + LINGER
    for each in (path, f"{path}.lock"):
        try:
            before = os.lstat(each).st_ino
            while os.lstat(each).st_ino == before and time.monotonic() < deadline:
                time.sleep(0.01)
        except OSError:
            pass


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:  # an abstract name, or gone meanwhile
        return True


def _connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        reasons: dict[type[OSError], str] = {
            FileNotFoundError: "There is no such socket.",
            ConnectionRefusedError: "Nobody listens there: the server that made it has died.",
            PermissionError: "The permissions of that path do not let you in.",
        }
        why = reasons.get(type(error), f"{error.strerror or error}.")
        if isinstance(error, ConnectionRefusedError) and not _is_socket(path):
            why = "That is no socket. A server has one where its --control-socket says, or a place that it chose."
        hint = (
            START
            if not isinstance(error, PermissionError)
            else "Ask as the server's user, as root, or as a member of its --control-group."
        )
        raise NoServer(f"No server answers at {path}.", why, hint) from None
    return sock


def _reply(
    sock: socket.socket, path: str, deadline: float, late: tuple[str, str], waiting: Callable[[], None]
) -> bytes:
    lines, patience = LineReader(sock, LONGEST_REPLY), HURRY
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    while not lines.ended:
        left = deadline - time.monotonic()
        if left <= 0:
            raise NoServer(f"The server at {path} has not answered in time.", *late)
        if not poller.poll(min(left, patience) * 1000):
            if patience < left:
                waiting()
            patience = left
        for line in lines.take():
            return line
    raise NoServer("The server has ended before it answered.", f"It hung up at {path}.", "Its log says more.")


def _listens(path: str) -> bool | None:
    """Whether a server is there; None if its permissions keep that from this user."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except PermissionError:
            return None
        except OSError:
            return False
        return True


def _of_name(live: list[str], name: str) -> list[str]:
    return [path for path in live if name and _name(path) == paths.file_name(name)]


def _name(path: str) -> str:
    return os.path.basename(path).removesuffix(paths.SUFFIX)


def _who(live: list[str], wrong: list[str]) -> str:
    if live:
        return f"Running: {', '.join(map(_name, live))}."
    return " ".join([f"Looked into {', '.join(paths.folders())}.", *wrong])
