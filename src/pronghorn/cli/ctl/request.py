"""One request to a running server: how long its answer may take, and what is said while it is awaited."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import rich_click as click

from pronghorn.control import client
from pronghorn.errors import BadRequest, BadSetting
from pronghorn.settings.values import quantity

QUICK, CHANGE, DRAIN = 10.0, 300.0, 3600.0
LONGEST = 10.0**7  # seconds
ANSWER = "Waiting for the server's answer"
FINISH = "Waiting for open connections to finish"
WAITS = {
    "status": (QUICK, ANSWER),
    "workers": (QUICK, ANSWER),
    "reload": (CHANGE, "Waiting for the new workers to be ready"),
    "upgrade": (CHANGE, "Waiting for the new program to be ready"),
    "resize": (QUICK, ANSWER),
    "drain": (DRAIN, FINISH),
    "stop": (DRAIN, FINISH),
}
"""How long the answer to each command may take, in seconds, and what is awaited."""


def answer(request: dict[str, Any], find: Callable[[], str], timeout: str | None) -> dict[str, Any]:
    """The result of the server whose socket `find` finds; raises NoServer, BadSetting and the server's own errors."""
    seconds, words = WAITS[request["command"]]
    if timeout is not None:
        seconds = duration(timeout)
    path = find()
    result: dict[str, Any] = client.ask(path, request, seconds, lambda: waiting(words))
    if request["command"] == "stop":
        client.wait_until_gone(path)
    return result


def serves(status: dict[str, Any]) -> bool:
    """Whether a client that connects now is served, by the result of `status`."""
    return bool(status["state"] == "SERVING" and status["workers"]["ready"])


def count(text: str) -> int:
    """A number of workers; raises BadRequest."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        why, hint = "It takes a whole number, at least 1.", "To have no worker at all: pronghorn ctl drain"
        raise BadRequest(f"There cannot be {text!r} workers.", why, hint)
    return int(text)


def duration(text: str) -> float:
    """Seconds; raises BadSetting."""
    try:
        seconds = quantity(text, "time")
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise BadSetting(f"--timeout cannot be {text!r}.", "It takes a duration, more than 0 (500ms, 30s, 2m, 1h).")
    return min(seconds, LONGEST)


def waiting(words: str) -> None:
    """Tells a person at a terminal why nothing happens."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(f"{words} (Ctrl-C ends only the waiting).", err=True)
