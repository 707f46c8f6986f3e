"""What the admin port answers: a table of paths."""

from __future__ import annotations

from pronghorn.admin import prometheus
from pronghorn.admin.feed import Feed
from pronghorn.admin.gathering import Gatherer
from pronghorn.admin.health import Health
from pronghorn.admin.http import Request, Response, Route
from pronghorn.admin.site import page_routes
from pronghorn.admin.supervisor_line import SupervisorLine
from pronghorn.system.side_boot import Side


def routes(side: Side, line: SupervisorLine, gatherer: Gatherer, feed: Feed) -> dict[str, Route]:
    """Every path, and what answers it. `side.settings` are those of control/admin_process.py."""
    health = Health(line)

    async def status(request: Request) -> Response:
        """What `pronghorn ctl status` and `pronghorn ctl workers` say, as one object."""
        server, workers = await line.look("status"), await line.look("workers")
        return Response.json({"status": server, **workers})

    async def metrics(request: Request) -> Response:
        """Prometheus's page."""
        page, content_type = prometheus.page(await gatherer.families(), request.headers.get("accept", ""))
        return Response(body=page, content_type=content_type)

    return {
        "/livez": Route(health.live),
        "/readyz": Route(health.ready),
        "/metrics": Route(metrics),
        "/status.json": Route(status),
        **page_routes(feed, line, side.settings, side.say),
    }
