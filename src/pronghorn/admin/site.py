"""The status page's paths: the page, its files, its stream of views, and with `--admin-write` its actions.

Law: without `--admin-write` there is nothing that changes anything: the path of actions is not there.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

from pronghorn import __version__
from pronghorn.admin import actions, page
from pronghorn.admin.actions import Gate
from pronghorn.admin.feed import MOST_STREAMS, Feed
from pronghorn.admin.http import Request, Response, Route
from pronghorn.admin.supervisor_line import SupervisorLine
from pronghorn.builds import build
from pronghorn.errors import PronghornError
from pronghorn.system.side_boot import CHANGED

HTML, EVENTS = "text/html; charset=utf-8", "text/event-stream"
MOST_FACTS = 40
Say = Callable[[str, str], None]


def page_routes(feed: Feed, line: SupervisorLine, settings: Mapping[str, Any], say: Say) -> dict[str, Route]:
    """The paths and what answers them; `say` takes records for the log, a level and a text. Of `settings` it takes
    `token`, which is empty without `--admin-write`, and CHANGED: the settings that are not their defaults, which a
    reload may change."""
    token = str(settings.get("token") or "").encode()
    facts = {
        "Pronghorn": f"{__version__} ({build()})",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "System": f"{platform.system()} {platform.release()} on {platform.node()}",
    }

    async def whole(request: Request) -> Response:
        """The page as HTML."""
        view, shown = await feed.page(), {**facts, **dict([*settings.get(CHANGED, {}).items()][:MOST_FACTS])}
        return Response(200, page.page(view, feed.history, shown, write=bool(token)), HTML, dict(page.HEADERS))

    async def file(request: Request) -> Response:
        """What the page asks for."""
        headers = {**dict(page.HEADERS), "Cache-Control": "no-cache"}
        return Response(200, page.file(request.path[1:]), page.FILES[request.path], headers)

    async def events(request: Request) -> Response:
        """The stream of views."""
        if feed.full:
            return Response.text(f"503: {MOST_STREAMS} streams are open already; load the page anew instead.\n", 503)
        return Response(200, feed.stream(), EVENTS, dict(page.HEADERS))

    found = {"/": Route(whole), "/events": Route(events, ("GET",)), **{path: Route(file) for path in page.FILES}}
    if token:
        found["/actions"] = Route(Actions(token, line, say).answer, ("POST",))
    return found


class Actions:
    """Obeys whoever has the token."""

    def __init__(self, token: bytes, line: SupervisorLine, say: Say) -> None:
        self._gate, self._line, self._say = Gate(token, time.monotonic), line, say

    async def answer(self, request: Request) -> Response:
        """`{"ok": ..., "said": ...}`: what was done, or why not."""
        try:
            self._gate.check(request.headers, request.client)
            order = actions.parsed(request.body)
            if order.action != "check":
                self._say("info", f"{request.client or 'a client'} asks for: {order}")
            said = await actions.obey(order, self._ask)
        except actions.Refused as refusal:
            if refusal.status == 401 and refusal.guessed:
                self._say("warning", f"{request.client or 'a client'} has sent a wrong token")
            return _said(refusal.why, refusal.status)
        except PronghornError as error:
            return _said(error.explanation, 409)
        return _said(said, 200)

    async def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        command = request.pop("command")
        result: dict[str, Any] = await self._line.act(command, seconds, **request)
        return result


def _said(said: str, status: int) -> Response:
    response = Response.json({"ok": status == 200, "said": said}, status)
    return response._replace(headers=dict(page.HEADERS))
