"""Settings of metrics: where they are sent, beside what the admin address serves."""

from __future__ import annotations

import re
from typing import Annotated

from pronghorn.errors import BadSetting
from pronghorn.settings.fields import RESTART, Option
from pronghorn.settings.logs import Logs

UNFIT = re.compile(r"[:|@#,\s]")  # what has a meaning of its own in a line of StatsD


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
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    wrong = not bare or set(bare) & set("/[] ") or (":" in bare and bare == host)
    if wrong or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadSetting(
            f"--statsd is {address!r}.", "It is HOST:PORT, [IPV6]:PORT or unix:PATH.", "As in --statsd 127.0.0.1:8125"
        )
    return bare, int(port)


def check_statsd(settings: Metrics) -> None:
    """Raises BadSetting for what cannot be an address, a prefix or a tag of StatsD."""
    if not settings.statsd:
        return
    statsd_place(settings.statsd)
    if UNFIT.search(prefix := settings.statsd_prefix):
        why = "In the line of StatsD blanks and : | @ # part what stands beside them."
        raise BadSetting(f"--statsd-prefix is {prefix!r}.", why, "As in --statsd-prefix prod.web")
    for tag in settings.statsd_tags.split(","):
        if tag and (UNFIT.search(tag.replace(":", "")) or ("=" in tag and ":" not in tag)):
            raise BadSetting(
                f"--statsd-tags has {tag!r}.", "A tag is NAME:VALUE.", "As in --statsd-tags env:prod,team:sea"
            )
