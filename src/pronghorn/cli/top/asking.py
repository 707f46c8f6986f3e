"""One turn of `pronghorn top`: the server is found, and asked over its control socket.

Law: nothing here draws. A server is looked for anew at each turn, so that one which was upgraded or started again is
found, whatever process it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pronghorn.cli.top import shapes
from pronghorn.cli.top.model import Answer, Frame, History, View
from pronghorn.cli.top.shapes import checked
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
        status = checked(self._ask(path, {"command": "status"}, waiting), shapes.Status)
        workers = checked(self._ask(path, {"command": "workers"}), shapes.Workers)["workers"]
        connections, why = None, ""
        try:
            found = self._ask(path, view.request())
        except client.NoServer:
            raise
        except PronghornError as error:
            why = NO_CONNECTIONS if "no command" in error.what else " ".join(str(error).split())
        else:
            connections = checked(found, shapes.Connections)
        return self._history.add(Answer(status, workers, connections, why))

    def end(self, connection: str) -> str:
        """Ends one connection, known by its id; what has become of it, in words. Raises PronghornError if the server
        cannot be asked, or refuses."""
        result = checked(self._ask(self._find(), {"command": "kill-connection", "ids": [connection]}), shapes.Ended)
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
            except OSError as error:
                found = PronghornError(f"{error.strerror or error}.")
            if not self._over:
                self._deliver(found)
                self._now.wait(self._interval)
