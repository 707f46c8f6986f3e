"""Settings of how long things may take, and when workers are replaced."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import NOW, option
from pronghorn.settings.serving import Serving

AN_HOUR = 3600.0


class Lifecycle(Serving, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the start of a worker to its end."""

    drain_timeout: Annotated[
        float,
        option("Time that open connections get to finish when the server stops.", "Lifecycle",
               unit="time", ge=0, at=NOW),
    ] = 30.0  # fmt: skip
    drain_quiet: Annotated[
        float,
        option("When the server stops, a conversation that owes nothing is ended once nothing was said for so long, in "
               "either direction; message and pronghorn.Protocol handlers, whose state is known, at once. As long as "
               "--drain-timeout: not before that is over.", "Lifecycle",
               unit="time", ge=0),
    ] = 2.0  # fmt: skip
    reload_drain_timeout: Annotated[
        float,
        option("Time for which an old worker, after a reload, an upgrade or its replacement, goes on with the "
               "connections that it has; then it drains as at a stop. 0: for ever. Unless it is set, 2 s with "
               "--reload.", "Lifecycle", unit="time", ge=0),
    ] = AN_HOUR  # fmt: skip
    max_generations: Annotated[
        int,
        option("Generations of workers that live at once, the one that serves included: beyond that the oldest drains "
               "as at a stop. 1: a reload waits for no conversation.", "Lifecycle", ge=1),
    ] = 3  # fmt: skip
    start_timeout: Annotated[
        float, option("Time that a worker gets to become ready.", "Lifecycle", unit="time", gt=0, at=NOW)
    ] = 60.0
    worker_silence: Annotated[
        float,
        option("Time without a heartbeat, 3 s at least, after which a worker counts as hung: its stacks are logged, it "
               "is killed and replaced; 0 switches that off.", "Lifecycle", unit="time", ge=0, at=NOW),
    ] = 30.0  # fmt: skip
    max_connections_per_worker: Annotated[
        int,
        option("Replace a worker once it has accepted so many connections, up to a tenth more; 0: never.",
               "Lifecycle", ge=0, at=NOW),
    ] = 0  # fmt: skip
    max_worker_age: Annotated[
        float,
        option("Replace a worker once it is so old, up to a tenth more; 0: never.", "Lifecycle",
               unit="time", ge=0, at=NOW),
    ] = 0.0  # fmt: skip
    max_worker_memory: Annotated[
        int,
        option("Replace a worker once it uses so much memory (resident set); 0: never.", "Lifecycle",
               unit="size", ge=0, at=NOW),
    ] = 0  # fmt: skip
