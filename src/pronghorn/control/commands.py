"""What the control socket can ask of the supervisor, and how the answers are put together.

Law: nothing here knows a socket. It reads the supervisor's book-keeping and the scoreboard, and calls the supervisor's
own methods; each request is answered once, some much later.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from pronghorn import __version__
from pronghorn.builds import build
from pronghorn.errors import BadSetting
from pronghorn.listening.sock_diag import overflows
from pronghorn.scoreboard import details
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.details import service_times
from pronghorn.scoreboard.histograms import BOUNDS, Histogram
from pronghorn.scoreboard.row import STATES
from pronghorn.serving.connection_inquiry import Query
from pronghorn.serving.handover import Outcome
from pronghorn.settings.lifecycle import HANDOVER
from pronghorn.supervisor.bus_side import bus_state
from pronghorn.supervisor.health import health
from pronghorn.supervisor.poller import Done
from pronghorn.supervisor.supervisor import Supervisor
from pronghorn.system.processes import cpu_seconds, resident_memory
from pronghorn.worker_process.plan import PlannedService

MOST_WORKERS = 512


class Commands:
    """Answers for one supervisor; implements protocol.CommandSet. `name` is the server's."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        self._supervisor = supervisor
        self._name = name
        self._build = build()  # now: the disk may hang later

    def status(self, done: Done) -> None:
        """The server as a whole."""
        supervisor = self._supervisor
        generation = supervisor.fleet.serving
        plan = generation.plan
        done(
            {
                "state": self._state(),
                "name": self._name,
                "pid": os.getpid(),
                "version": __version__,
                "build": self._build,
                "uptime": round(time.monotonic() - supervisor.started_at, 3),
                "generation": generation.number,
                "handler": ", ".join(dict.fromkeys(each.name for each in plan.facts)),
                "style": ", ".join(dict.fromkeys(each.style for each in plan.facts)),
                "model": plan.model.name,
                "max_connections": plan.settings.max_connections,
                "listening": [listener.address for listener in plan.listeners],
                "tls": any(each.settings.tls_at_once for each in plan.services),
                "listeners": self._listeners(),
                "workers": {
                    "wanted": len(generation.slots),
                    "ready": generation.ready,
                    "draining": len(supervisor.workers.retiring()),
                },
                "old": self._old(),
                **plan.board.totals(),
                "handover": self._handover(),
                "under_way": supervisor.changes.under_way or None,
                "last_reload": supervisor.changes.last_reload,
                "ready": health(supervisor),
                "drains_in": round(supervisor.delay.left, 1),
                "side_processes": supervisor.sides.state(),
                "bus": bus_state(supervisor.sides, plan.settings),
                "kernel_listen_overflows": _overflows(),
                "faults": supervisor.guard.failures,
                "last_fault": supervisor.guard.last or None,
            }
        )

    def _handover(self) -> dict[str, Any]:
        """Connections that have moved to new workers since the server was started, by how long at most each was held
        up, and those that have stayed with a worker which is there still, by the reason; and how many are with the
        programs before an upgrade, which know the reason."""
        board, outcomes = self._supervisor.fleet.serving.plan.board, self._supervisor.workers.retiring()
        stay = sum((each.outcome.at_most(each.row.open) for each in outcomes if each.outcome), Outcome()).stay
        told = {"moved": board.moved, "longest_pause": board.longest_pause, "stay": stay}
        if self._supervisor.fleet.serving.plan.settings.on_reload == HANDOVER:
            told["elsewhere"] = self._supervisor.elsewhere()["open"]
        return told

    def _listeners(self) -> list[dict[str, Any]]:
        """Each listener by its name: its addresses, what is served there, and what is counted for it; a server's only
        one without a name is not counted for itself."""
        plan, found = self._supervisor.fleet.serving.plan, dict[str, dict[str, Any]]()
        for listener, offered in zip(plan.listeners, plan.offered, strict=True):
            service = plan.services[offered.service]
            settings = service.settings
            record = found.setdefault(
                offered.name,
                {
                    "name": offered.name,
                    "number": offered.number,
                    "listening": [],
                    "accept_queue": [],
                    "handler": service.facts.name,
                    "style": service.facts.style,
                    "tls": settings.tls if service.certificates is not None else "off",
                    "certificates": _certificates(service),
                    **(plan.board.totals_at(offered.number) if offered.number >= 0 else {}),
                },
            )
            record["listening"].append(listener.address)
            queue = listener.queue()
            record["accept_queue"].append(None if queue is None else {"waiting": queue[0], "backlog": queue[1]})
        return [*found.values()]

    def _old(self) -> dict[str, Any]:
        """The workers that are on their way out, of programs before an upgrade too, and what they have open; and for
        how many seconds goodbyes are still spread over that, by workers of this program."""
        serving = self._supervisor.fleet.serving
        going = {each.row.index for each in self._supervisor.workers.retiring()}
        rows = [
            row
            for row in serving.plan.board.rows()
            if row.index in going or (row.supervisor != os.getpid() and row.generation < serving.number)
        ]
        programs = self._supervisor.predecessors.living()
        ends = [each.retired_at + each.spread for each in self._supervisor.workers.retiring() if each.spread]
        return {
            "workers": len(rows),
            "connections": sum(row.open for row in rows),
            "programs": len(programs),
            "goodbyes": round(max(0.0, max(ends, default=0.0) - time.monotonic()), 1),
            "listeners": self._gone(),
        }

    def _gone(self) -> dict[str, int]:
        """How many connections are open that came by listeners which are gone, for each of their names."""
        plan, old = self._supervisor.fleet.serving.plan, self._supervisor.workers.retiring()
        before = {each.name: each.number for worker in old for each in worker.generation.plan.offered}
        serving = {each.name for each in plan.offered}
        gone = {name: number for name, number in before.items() if number >= 0 and name not in serving}
        return {name: count for name, number in gone.items() if (count := plan.board.totals_at(number)["open"])}

    def workers(self, done: Done) -> None:
        """Each worker, of every generation, and those of the program that an upgrade replaces."""
        done({"workers": self._worker_rows()})

    def _worker_rows(self) -> list[dict[str, Any]]:
        now, board = time.monotonic(), self._supervisor.fleet.serving.plan.board
        rows = [
            {
                "slot": row.slot,
                "pid": row.pid,
                "supervisor": row.supervisor,
                "generation": row.generation,
                "state": STATES.get(row.state, "unknown").upper(),
                "age": round(now - row.started, 3),
                "open": row.open,
                "accepted": row.accepted,
                "messages": row.messages,
                "bytes_in": row.bytes_in,
                "bytes_out": row.bytes_out,
                "beat_age": round(max(0.0, now - row.beat), 3),
                "memory": resident_memory(row.pid),
                "cpu_seconds": cpu_seconds(row.pid),
                "service_times": _pairs(service_times(board.fileno(), row.index)),
            }
            for row in board.rows()
        ]
        return sorted(rows, key=lambda row: (row["generation"], row["slot"], row["pid"]))

    def reload(self, done: Done) -> None:
        if not self._supervisor.delay.stops:
            self._supervisor.delay.end()
        self._supervisor.changes.reload("ctl reload", done)

    def upgrade(self, done: Done) -> None:
        self._supervisor.changes.upgrade(done)

    def resize(self, count: int, done: Done) -> None:
        """Answers at once; the new workers become ready, and those that are too many leave, in their own time."""
        if not 1 <= count <= MOST_WORKERS:
            done(BadSetting(f"There cannot be {count} workers.", f"It takes 1 to {MOST_WORKERS}."))
        else:
            if (refusal := self._supervisor.changes.no_resize()) is None:
                self._supervisor.resize(count, "ctl resize")
            done(refusal or {"workers": count})

    def drain(self, done: Done) -> None:
        """No worker accepts any more and conversations finish; clients wait in the queue until workers come back, by
        `resize` or `reload`. Answers when the last worker is gone."""
        if (refusal := self._supervisor.changes.no_resize()) is not None:
            return done(refusal)
        self._supervisor.empty("ctl drain")
        self._supervisor.when_empty(done)

    def stop(self, done: Done) -> None:
        self._supervisor.stop(done)

    def stats(self, done: Done) -> None:
        """What all workers have counted, by listener and by worker, and quantiles of times if metrics are read."""
        plan = self._supervisor.fleet.serving.plan
        totals = plan.board.totals()
        done(
            {
                "uptime": round(time.monotonic() - self._supervisor.started_at, 3),
                "totals": totals,
                "listeners": [each for each in self._listeners() if "accepted" in each],
                "workers": self._worker_rows(),
                "times": times(plan.board),
            }
        )

    def log_level(self, level: str, done: Done) -> None:
        """The level of the log of all processes, until a reload says otherwise."""
        fleet = self._supervisor.fleet
        if fleet.serving.plan.settings.log_config:
            what, hint = "The log has levels of its own.", "Change the file of --log-config, and reload."
            return done(BadSetting(what, "They stand in the file of --log-config.", hint))
        before = fleet.serving.plan.settings.log_level
        fleet.set_log_level(level)
        done({"level": level, "before": before})

    def reopen(self, done: Done) -> None:
        """Opens the log file and the access log anew, as SIGUSR1 does: they have been renamed. Answers at once."""
        settings = self._supervisor.fleet.serving.plan.settings
        signal.raise_signal(signal.SIGUSR1)
        done({"files": [each for each in (settings.log_file, settings.access_log) if each not in ("", "-")]})

    def connections(self, query: Query, done: Done) -> None:
        """Rows of the open connections that are meant: see serving/connection_rows.py."""
        self._supervisor.inquiries.connections(query, done)

    def kill_connection(self, ids: list[str], done: Done) -> None:
        """Ends connections, each known by its id, as a cut does."""
        self._supervisor.inquiries.end(ids, done)

    def _state(self) -> str:
        """STARTING, SERVING, STOPPING (not ready, and accepting: --drain-delay), DRAINING, or DRAINED when no worker is
        left but the supervisor stays."""
        supervisor = self._supervisor
        if supervisor.draining:
            return "DRAINING"
        if not supervisor.fleet.serving.slots:
            return "DRAINING" if supervisor.workers.living else "DRAINED"
        if supervisor.delay.stops:
            return "STOPPING"
        return "SERVING" if supervisor.fleet.served else "STARTING"


def _certificates(service: PlannedService) -> list[dict[str, Any]]:
    """The certificates that a service has in use: the first name of each, and when it ends (seconds since 1970)."""
    described = service.certificates.described if service.certificates is not None else []
    return [{"name": each.names[0] if each.names else each.serial, "until": each.until} for each in described]


def _overflows() -> int | None:
    """How many connections have come to full accept queues, of all programs of this network namespace; None where the
    kernel does not tell."""
    try:
        return overflows().overflowed
    except OSError:
        return None


def _pairs(times: Histogram | None) -> list[tuple[float | None, int]] | None:
    """A histogram as the bounds of its buckets, in seconds, and what counts there; None is beyond all bounds."""
    if times is None:
        return None
    return [(bound, count) for bound, count in zip((*BOUNDS, None), times.counts, strict=True) if count]


def times(board: Scoreboard) -> dict[str, dict[str, float]] | None:
    """How long connections lasted, how long until their first byte was sent, and how long messages took (a sample), in
    seconds: the number of values, and quantiles. None where nobody reads metrics, and so nothing is measured."""
    whole = details.total(board.fileno(), (0, *(row.index for row in board.rows())))
    if whole is None:
        return None
    told = {}
    for name, start in (
        ("duration", details.DURATION),
        ("first_byte", details.FIRST_BYTE),
        ("service", details.SERVICE),
    ):
        values = whole.histogram(start)
        if values.count:
            quantiles = {f"p{percent}": values.quantile(percent / 100) for percent in (50, 90, 99)}
            told[name] = {"count": values.count, **quantiles}
    return told
