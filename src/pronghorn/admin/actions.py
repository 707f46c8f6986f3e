"""What the status page may do with `--admin-write`: drain, reload, resize, end a connection. Each is one POST.

Law: an action needs the token of `--admin-token-file`, in the header `Authorization: Bearer TOKEN` and nowhere else,
and a body of JSON, which no other site's form can send. A browser's request must come from this page (Origin,
Sec-Fetch-Site). Tokens are compared in constant time; wrong ones are counted by source and in all, and who has tried
too often is not compared any more for a while. Neither the token nor what was tried for it is in a message.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from pronghorn.admin.supervisor_line import NoAnswer
from pronghorn.errors import PronghornError, printable

Ask = Callable[[dict[str, Any], float], Awaitable[dict[str, Any]]]
"""Asks the supervisor, for so many seconds. Raises PronghornError, and NoAnswer while it goes on with it."""

LONGEST_BODY = 4096  # bytes
TRIES, ALL_TRIES, WINDOW = 5, 50, 60.0  # wrong tokens of one source, and of all, in so many seconds
MOST_SOURCES = 1024
MOST_WORKERS = 512
SECONDS = {"reload": 60.0, "drain": 3.0, "resize": 10.0, "end": 5.0}
CONNECTION = re.compile(r"[0-9]{1,10}-[0-9]{1,16}")
GOES_ON = "It goes on; this page shows how far it is."


class Refused(Exception):
    """A request that is not obeyed: the HTTP status, and why; whether it has `guessed` a token."""

    def __init__(self, status: int, why: str, *, guessed: bool = False) -> None:
        super().__init__(status, why)
        self.status, self.why, self.guessed = status, why, guessed


class Order(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a request. `check` only tells whether the token is right."""

    action: Literal["check", "drain", "reload", "resize", "end"]
    count: int = 0
    """Of resize."""
    connection: str = ""
    """Of end: PID-NUMBER."""

    def __str__(self) -> str:
        return f"{self.action} {self.count or self.connection or ''}".rstrip()


class Gate:
    """Lets in who has the token. `clock` is monotonic, in seconds."""

    def __init__(self, token: bytes, clock: Callable[[], float]) -> None:
        self._token, self._clock = token, clock
        self._since = -math.inf
        self._tries: dict[str, int] = {}
        self._all = 0

    def check(self, headers: Mapping[str, str], source: str) -> None:
        """Raises Refused for a request without the right token, or from another site. The names of `headers` are in
        lower case; `source` is the address of the client, without its port."""
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "The request comes from another site.")
        if "origin" in headers and not _same(headers["origin"], headers.get("host", "")):
            raise Refused(403, "The request comes from another site.")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "The body has to be application/json.")
        self._admit(headers.get("authorization", ""), source)

    def _admit(self, said: str, source: str) -> None:
        now = self._clock()
        if now >= self._since + WINDOW:
            self._since, self._all = now, 0
            self._tries.clear()
        if self._tries.get(source, 0) >= TRIES or self._all >= ALL_TRIES:
            raise Refused(429, f"Too many wrong tokens: wait for {math.ceil(self._since + WINDOW - now)} s.")
        scheme, _, token = said.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
        if not hmac.compare_digest(given, self._token):
            if given:  # who has forgotten it has not guessed
                self._all += 1
                if source in self._tries or len(self._tries) < MOST_SOURCES:
                    self._tries[source] = self._tries.get(source, 0) + 1
            raise Refused(401, "The token is wrong." if given else "A token is needed.", guessed=bool(given))


def _same(origin: str, host: str) -> bool:
    """Whether a page of this origin was served under this Host."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def parsed(body: bytes) -> Order:
    """The order in a body. Raises Refused."""
    try:
        order = msgspec.json.decode(body, type=Order)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"That is no order: {printable(str(error), 200, '')}.") from None
    if order.action == "resize" and not 1 <= order.count <= MOST_WORKERS:
        raise Refused(400, f"There can be 1 to {MOST_WORKERS} workers. For none at all, drain.")
    if order.action == "end" and not CONNECTION.fullmatch(order.connection):
        raise Refused(400, "A connection is named PID-NUMBER.")
    return order


async def obey(order: Order, ask: Ask) -> str:
    """Has the supervisor do it; what has been done, in a sentence. Raises PronghornError."""
    if order.action == "check":
        return "The token is right."
    request: dict[str, Any] = {"command": order.action}
    if order.action == "resize":
        request["count"] = order.count
    elif order.action == "end":
        request = {"command": "kill-connection", "ids": [order.connection]}
    try:
        result = await ask(request, SECONDS[order.action])
    except NoAnswer:
        return f"{order.action.capitalize()} was asked for. {GOES_ON}"
    return _told(order, result)


def _told(order: Order, result: dict[str, Any]) -> str:
    if order.action == "reload":
        return f"Reloaded: generation {result.get('generation')} serves."
    if order.action == "drain":
        return "Drained: no worker is left, and new clients wait. Reload or resize goes on."
    if order.action == "resize":
        return f"Resized to {order.count}. {GOES_ON}"
    if order.connection in result.get("ended", ()):
        return f"Connection {order.connection} was ended."
    if order.connection in result.get("late", ()):
        raise PronghornError(f"Connection {order.connection} has not ended yet.", "Its worker does not answer.")
    raise PronghornError(f"Connection {order.connection} is gone already.")
