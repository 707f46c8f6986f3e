"""Settings of metrics: where they are sent, beside what the admin address serves."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import RESTART, Option
from pronghorn.settings.logs import Logs


class Metrics(Logs, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of what the server counts."""

    statsd: Annotated[
        str,
        "StatsD server that is sent the metrics once in ten seconds: HOST:PORT (UDP), or unix:PATH for a datagram "
        "socket.",
        Option(metavar="ADDR", at=RESTART),
    ] = ""
    statsd_prefix: Annotated[
        str, "What the names of the metrics begin with that StatsD is sent.", Option(metavar="TEXT", at=RESTART)
    ] = ""
    statsd_tags: Annotated[
        str,
        "Tags of all metrics that StatsD is sent, as in env:prod,team:sea; labels are sent as tags, too (DogStatsD).",
        Option(metavar="TAGS", at=RESTART),
    ] = ""
    otel: Annotated[
        bool,
        "Send the metrics by OpenTelemetry's protocol (OTLP over HTTP), as the OTEL_* variables say; needs the extra "
        "otel.",
        Option(at=RESTART),
    ] = False

    @property
    def wants_metrics(self) -> bool:
        """Whether anybody reads what only metrics tell."""
        return any(getattr(self, each, "") for each in ("admin", "statsd", "otel"))
