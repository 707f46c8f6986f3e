"""Settings of metrics: where they are sent, beside what the admin address serves."""

from __future__ import annotations

from typing import Annotated

from pronghorn.errors import BadSetting
from pronghorn.settings.fields import RESTART, Option
from pronghorn.settings.logs import Logs


class Metrics(Logs, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of what the server counts."""

    statsd: Annotated[
        str,
        "StatsD server that is sent the metrics once in ten seconds: HOST:PORT (UDP), or unix:PATH for a datagram "
        "socket.",
        Option(metavar="ADDRESS", at=RESTART),
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


def statsd_place(address: str) -> tuple[str, int] | str:
    """Host and port of a StatsD server, or the path of its socket. Raises BadSetting."""
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadSetting(
            f"--statsd is {address!r}.", "It is HOST:PORT, [IPV6]:PORT or unix:PATH.", "As in --statsd 127.0.0.1:8125"
        )
    return host, int(port)
