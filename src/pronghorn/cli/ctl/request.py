"""What a running server can be asked: the help of each request, and how long the answer may take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import rich_click as click

from pronghorn.control import client
from pronghorn.errors import BadRequest, BadSetting, nearest
from pronghorn.settings.logs import LOG_LEVELS
from pronghorn.settings.values import quantity

QUICK, CHANGE, DRAIN = 10.0, 300.0, 3600.0
LONGEST = 10.0**7  # seconds
FINISH = "Waiting for open connections to finish"


class Request(NamedTuple):
    """One command: its help, how long its answer may take, in seconds, and what is awaited."""

    help: str
    seconds: float = QUICK
    awaited: str = "Waiting for the server's answer"


REQUESTS = {
    "status": Request("How the server is: state, workers, connections, the last reload."),
    "workers": Request("How each worker is."),
    "reload": Request(
        "Read settings and handler anew: new workers; the old let go, as --on-reload says. What fails changes nothing.",
        CHANGE,
        "Waiting for the new workers to be ready",
    ),
    "upgrade": Request(
        "The same with a new program: after an update of Pronghorn or of Python.",
        CHANGE,
        "Waiting for the new program to be ready",
    ),
    "resize": Request("Change the number of workers to N; those that are too many finish what they have."),
    "drain": Request(
        "Let all workers finish and leave, while new clients wait; resize or reload goes on.", DRAIN, FINISH
    ),
    "stop": Request("Let open connections finish, and end the server.", DRAIN, FINISH),
    "stats": Request("What is counted, in all and a second: by listener, worker and reason."),
    "log-level": Request("Log records of this level and above, in all processes, until a reload says otherwise."),
    "reopen": Request("Open the log file and the access log anew, as logrotate wants it: they have been renamed."),
    "connections": Request("The open connections, the oldest first: who, since when, how much, in which state."),
    "kill-connection": Request("End connections at once, as a cut does: by their ids, or all that fit."),
}


def answer(request: dict[str, Any], find: Callable[[], str], timeout: str | None) -> dict[str, Any]:
    """The result of the server whose socket `find` finds; raises NoServer, BadSetting and the server's own errors."""
    about = REQUESTS[request["command"]]
    seconds = about.seconds if timeout is None else duration(timeout)
    path = find()
    result: dict[str, Any] = client.ask(
        path, request, seconds, lambda: waiting(about.awaited), at_once=about.seconds == QUICK
    )
    if request["command"] == "stop":
        client.wait_until_gone(path)
    return result


def serves(status: dict[str, Any]) -> bool:
    """Whether a client that connects now is served, by the result of `status`."""
    ready = status.get("ready", {}).get("ready", True)
    return bool(status["state"] == "SERVING" and status["workers"]["ready"] and ready)


def count(text: str) -> int:
    """A number of workers; raises BadRequest."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        why, hint = "It takes a whole number, at least 1.", "To have no worker at all: pronghorn ctl drain"
        raise BadRequest(f"There cannot be {text!r} workers.", why, hint)
    return int(text)


def level(text: str) -> str:
    """A level of the log; raises BadRequest."""
    if text.lower() not in LOG_LEVELS:
        raise BadRequest(f"The log has no level {text!r}.", hint=nearest(text, LOG_LEVELS))
    return text.lower()


def duration(text: str, option: str = "--timeout") -> float:
    """Seconds; raises BadSetting."""
    try:
        seconds = quantity(text, "time")
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise BadSetting(f"{option} cannot be {text!r}.", "It takes a duration, more than 0 (500ms, 30s, 2m, 1h).")
    return min(seconds, LONGEST)


def waiting(words: str) -> None:
    """Tells a person at a terminal why nothing happens."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(f"{words} (Ctrl-C ends only the waiting).", err=True)
