"""Settings of starts, reloads and stops, and of when a worker is replaced."""

from __future__ import annotations

import math
from typing import Annotated

from pronghorn.settings.fields import NOW, RESTART, Option
from pronghorn.settings.handler import Handler

AN_HOUR = 3600.0
SHORT = 2.0  # seconds that old workers may go on where code changes every few minutes
ON_RELOAD = KEEP, SPREAD, HANDOVER = "keep", "spread", "handover"
A_MINUTE = 60.0
LAST_WORDS = 1.0  # seconds before the drain deadline


class Lifecycle(Handler, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From the start of a worker to its end."""

    drain_timeout: Annotated[
        float, "Time that open connections get to finish when the server stops.", Option(unit="time", ge=0, at=NOW)
    ] = 30.0
    drain_quiet: Annotated[
        float,
        "When the server stops, a conversation that owes nothing is ended once nothing was said for so long, in "
        "either direction; message and pronghorn.Protocol handlers, whose state is known, at once. As long as "
        "--drain-timeout: not before that is over.",
        Option(unit="time", ge=0),
    ] = 2.0
    drain_spread: Annotated[
        float,
        "Time over which goodbye is said to one connection after the other, each at a quiet moment of its own, so that "
        "clients do not come back all at once: by old workers with --on-reload spread, for which it is 60 s unless it "
        "is set; and at a stop, where --drain-timeout is the upper bound. 0: at a stop goodbye is said to all at once.",
        Option(unit="time", ge=0, at=NOW),
    ] = 0.0
    on_reload: Annotated[
        str,
        "What old workers do with their connections after a reload, an upgrade or their replacement. keep: go on with "
        "each until it ends by itself. spread: say goodbye to one after the other, over --drain-spread; a connection "
        "that is never quiet, or whose handler said stay(), goes on. handover: give each to a new worker, message and "
        "pronghorn.Protocol handlers without TLS under a model with a loop; what cannot move is kept. All until "
        "--reload-drain-timeout is over.",
        Option(choices=ON_RELOAD, at=NOW),
    ] = KEEP
    reload_drain_timeout: Annotated[
        float,
        "Time for which an old worker, after a reload, an upgrade or its replacement, goes on with the connections "
        "that it has; then it drains as at a stop. 0: for ever. Unless it is set, 2 s with --reload.",
        Option(unit="time", ge=0),
    ] = AN_HOUR
    max_generations: Annotated[
        int,
        "Generations of workers that live at once, the one that serves included: beyond that the oldest drains as at "
        "a stop. 1: a reload waits for no conversation.",
        Option(ge=1),
    ] = 3
    start_timeout: Annotated[float, "Time that a worker gets to become ready.", Option(unit="time", gt=0, at=NOW)] = (
        60.0
    )
    worker_silence: Annotated[
        float,
        "Time without a heartbeat, 3 s at least, after which a worker counts as hung: its stacks are logged, it is "
        "killed and replaced; 0 switches that off.",
        Option(unit="time", ge=0, at=NOW),
    ] = 30.0
    slow_callback: Annotated[
        float,
        "Time after which a callback that holds up its worker's loop is logged, with its stack and its connection, "
        "while it lasts, and counted: under models with a loop, and gevent. 0 switches that off.",
        Option(unit="time", ge=0),
    ] = 0.5
    max_connections_per_worker: Annotated[
        int,
        "Replace a worker once it has accepted so many connections, up to a tenth more; 0: never.",
        Option(ge=0, at=NOW),
    ] = 0
    max_worker_age: Annotated[
        float, "Replace a worker once it is so old, up to a tenth more; 0: never.", Option(unit="time", ge=0, at=NOW)
    ] = 0.0
    max_worker_memory: Annotated[
        int, "Replace a worker once it uses so much memory (resident set); 0: never.", Option(unit="size", ge=0, at=NOW)
    ] = 0
    reload: Annotated[
        bool,
        "Watch the handler's files and the settings file, and reload when one changes: for development.",
        Option(at=RESTART),
    ] = False

    @property
    def old_workers_spread(self) -> float:
        """Seconds over which workers before a reload say goodbye to their connections; 0 if they say none."""
        return (self.drain_spread or A_MINUTE) if self.on_reload == SPREAD else 0.0

    @property
    def stop_spread(self) -> float:
        """Seconds over which a worker that stops says goodbye to its connections: the last of them has to have its
        quiet moment before the drain deadline, and time for its last words. 0: at once."""
        room = self.drain_timeout - self.drain_quiet - min(LAST_WORDS, self.drain_timeout / 4)
        return max(0.0, min(self.drain_spread, room))

    @property
    def old_workers_timeout(self) -> float:
        """Seconds that workers before a reload may go on; infinite if for ever."""
        if self.reload and self.reload_drain_timeout == AN_HOUR:
            return SHORT
        return self.reload_drain_timeout or math.inf
