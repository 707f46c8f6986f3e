"""Whether the server lives and takes clients, for probes: /livez and /readyz, as Kubernetes and load balancers ask.

Law: live is a server whose supervisor answers; a restart mends nothing else. So liveness does not fail while a server
starts, drains, or has busy workers. Ready is one that takes new clients and goes on with it: not while it starts,
drains or waits for its end, nor without a worker. It stays ready while the broker of its bus is away, and says so:
otherwise one broker would take all hosts out of rotation (--bus-required decides otherwise).
"""

from __future__ import annotations

from pronghorn.admin.http import Request, Response
from pronghorn.admin.supervisor_line import SupervisorLine

OK = "ok\n"


class Health:
    """Answers by what the supervisor says on `line`."""

    def __init__(self, line: SupervisorLine) -> None:
        self._line = line

    async def live(self, request: Request) -> Response:
        """200 if the supervisor answers, else 503."""
        await self._line.look("health")  # NoAnswer becomes a 503
        return Response.text("[+]supervisor ok\nlivez check passed\n" if "verbose" in request.query else OK)

    async def ready(self, request: Request) -> Response:
        """200 if the server takes new clients and goes on with that, else 503 with the reason."""
        health = await self._line.look("health")
        status = 200 if health["ready"] else 503
        if "verbose" not in request.query:
            lacks = f"bus: {health['lacks']}\n" if health.get("lacks") else ""
            return Response.text(OK + lacks if health["ready"] else f"not ready: {health['why']}\n", status)
        lines = [f"[{'+' if good else '-'}]{name} {words}" for name, good, words in health["checks"]]
        return Response.text(
            "\n".join([*lines, f"readyz check {'passed' if health['ready'] else 'failed'}", ""]), status
        )
