"""One turn of `pronghorn top`: the server is found, and asked over its control socket.

Law: nothing here draws. A server is looked for anew at each turn, so that one which was upgraded or started again is
found, whatever process it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pronghorn.cli.top.model import Answer, Frame, History, View
from pronghorn.control import client
from pronghorn.errors import PronghornError

SECONDS = 10.0  # that an answer may take
NO_CONNECTIONS = "This server does not tell its connections: it is of an older version."


class Asking:
    """Asks one server for what a `view` wants, and makes frames of its answers."""

    def __init__(self, find: Callable[[], str], view: View) -> None:
        self._find = find
        self._history = History()
        self.view = view

    def frame(self, waiting: Callable[[], None] = lambda: None) -> Frame:
        """What there is now; `waiting` is called once if it takes a while. Raises PronghornError if nobody answers, or
        the server refuses."""
        path, view = self._find(), self.view
        status = self._ask(path, {"command": "status"}, waiting)
        workers = self._ask(path, {"command": "workers"})["workers"]
        connections, why = None, ""
        try:
            connections = self._ask(path, view.request())
        except client.NoServer:
            raise
        except PronghornError as error:
            why = NO_CONNECTIONS if "no command" in error.what else " ".join(str(error).split())
        return self._history.add(Answer(status, workers, connections, why))

    def end(self, connection: str) -> str:
        """Ends one connection, known by its id; what has become of it, in words. Raises PronghornError if the server
        cannot be asked, or refuses."""
        result = self._ask(self._find(), {"command": "kill-connection", "ids": [connection]})
        if connection in result["ended"]:
            return f"Connection {connection} has been ended."
        if connection in result["gone"]:
            return f"Connection {connection} has ended already."
        return f"Connection {connection}: its worker has not answered in time. Is a handler holding it up?"

    def _ask(self, path: str, request: dict[str, Any], waiting: Callable[[], None] = lambda: None) -> Any:
        return client.ask(path, request, SECONDS, waiting, at_once=True)


class Turns(threading.Thread):
    """Asks again and again, `interval` seconds after each answer, in a thread that no end waits for."""

    def __init__(self, asking: Asking, interval: float, deliver: Callable[[Frame | PronghornError], object]) -> None:
        super().__init__(name="top", daemon=True)
        self._asking, self._interval, self._deliver = asking, interval, deliver
        self._now = threading.Event()
        self._over = False

    def now(self) -> None:
        """The next turn begins as soon as this one is over."""
        self._now.set()

    def end(self) -> None:
        """No turn begins any more; one that is under way is not waited for."""
        self._over = True
        self._now.set()

    def run(self) -> None:
        while not self._over:
            self._now.clear()
            try:
                found: Frame | PronghornError = self._asking.frame()
            except PronghornError as error:
                found = error
            except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                found = PronghornError("The server's answer cannot be understood.", f"{type(error).__name__}: {error}")
            if not self._over:
                self._deliver(found)
                self._now.wait(self._interval)
