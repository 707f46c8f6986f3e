"""Families: everything that the server knows, as plain records, which all exporters read.

Law: pure but for what it reads of the scoreboard and of the kernel; `Source.collect` may block for some milliseconds,
and asks nobody. What is not known is left out, and never told as 0. Sums are taken between two changes of the
scoreboard, so that a worker that dies meanwhile is neither missing nor counted twice.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pronghorn import metrics
from pronghorn.admin.catalogue import HISTOGRAMS, METRICS
from pronghorn.bus.figures import OUTCOMES
from pronghorn.listening.sock_diag import overflows
from pronghorn.scoreboard import details
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.counts import believed
from pronghorn.scoreboard.details import Counted
from pronghorn.scoreboard.map import H_CHANGES
from pronghorn.scoreboard.own_metrics import Own, OwnReader
from pronghorn.scoreboard.row import STATES, Row
from pronghorn.scoreboard.shared_limits import FAILURES, HOSTS, LEAST, SOURCES, UNTIL, UP
from pronghorn.system.processes import cpu_seconds, descriptors_of, resident_memory

ATTEMPTS = 5
STATES_OF_SERVER = ("starting", "serving", "stopping", "draining", "drained")
SERVING, OLD = "serving", "old"
MOST_SERIES = 5000  # of handlers' own metrics, over all workers
REFUSED = {
    "refused_access": "access",
    "refused_source_count": "connections_per_source",
    "refused_rate": "accept_rate",
    "refused_source_rate": "accept_rate_per_source",
    "refused_crash_penalty": "crash_penalty",
    "refused_proxy_header": "proxy_header_late",
    "refused_proxy": "proxy_header_wrong",
    "refused_descriptors": "descriptors",
    "refused_resources": "resources",
}
REFUSED_IN_ALL = {"refused_source_count_in_all": "connections_per_source", "refused_rate_in_all": "accept_rate"}
HANDSHAKES = {
    "handshake_done": "done",
    "handshake_timeout": "timeout",
    "handshake_untrusted": "untrusted",
    "handshake_unfinished": "unfinished",
    "handshake_no_tls": "no_tls",
    "handshake_failed": "failed",
}
PLAIN = {
    "loop_failures_total": "loop_failures",
    "resizes_total": "resized",
    "supervisor_faults_total": "faults",
    "observer_failures_total": "observer_failures",
    "suspected_sources_total": "sources_suspected",
    "certificates_refused_total": "certificate_refused",
    "worker_starts_total": "worker_started",
    "worker_start_failures_total": "worker_not_started",
    "workers_silent_total": "worker_silent",
    "workers_doomed_total": "worker_doomed",
    "workers_retired_total": "worker_retired",
}
LABELLED = {
    "reloads_total": ("result", {"reload_done": "done", "reload_failed": "failed"}),
    "upgrades_total": ("result", {"upgrade_done": "done", "upgrade_failed": "failed"}),
    "worker_exits_total": ("kind", {"exit_wanted": "wanted", "exit_signal": "signal", "exit_unwanted": "error"}),
    "connections_refused_total": ("reason", REFUSED),
    "tls_handshakes_total": ("result", HANDSHAKES),
    "shared_limits_refused_total": ("reason", REFUSED_IN_ALL),
    "log_records_dropped_total": ("log", {"log_dropped": "error", "access_dropped": "access"}),
}
OF_LISTENERS = {
    "connections_accepted_total": "accepted",
    "connections_refused_total": "refused",
    "messages_total": "messages",
    "received_bytes_total": "bytes_in",
    "sent_bytes_total": "bytes_out",
    "handler_errors_total": "handler_errors",
    "connections_open": "open",
}
Labels = tuple[tuple[str, str], ...]


class Buckets(NamedTuple):
    """The value of a histogram: for each bound, inf the last, how many values are not beyond; and the sum of all."""

    up_to: list[tuple[float, int]]
    sum: float
    fine: tuple[tuple[float, int], ...] = ()
    """Narrower buckets, where there are any: for each bound how many values are in its bucket alone."""

    @property
    def values(self) -> int:
        """How many there are."""
        return self.up_to[-1][1]

    @property
    def each(self) -> list[tuple[float, int]]:
        """How many values are in each bucket alone, the narrowest that there are; those without any are left out."""
        if self.fine:
            return [*self.fine]
        before = (0, *(count for _, count in self.up_to))
        return [(bound, count - less) for (bound, count), less in zip(self.up_to, before, strict=False) if count > less]

    @property
    def largest(self) -> float:
        """The last bound that is a number."""
        return self.up_to[-2][0]


class Sample(NamedTuple):
    """One series, and its value now."""

    labels: Labels
    value: float | Buckets


class Family(NamedTuple):
    """A metric: `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: list[Sample]


class Sums(NamedTuple):
    """What the scoreboard says, at one moment."""

    totals: dict[str, Any]
    counted: Counted
    own: list[tuple[Row | None, Own]]
    rows: list[Row]
    listeners: dict[int, dict[str, int]]
    moved: int
    probes: int


class Families:
    """Families that are being gathered, in the order of the catalogue."""

    def __init__(self) -> None:
        self._samples: dict[str, list[Sample]] = {}

    def add(self, name: str, value: float | Buckets | None, /, **labels: str) -> None:
        """A sample of one of the catalogue's metrics; nothing if the value is not known."""
        if value is not None:
            self._samples.setdefault(f"pronghorn_{name}", []).append(Sample((*labels.items(),), value))

    def all(self) -> list[Family]:
        return [
            Family(name, METRICS[name].kind, METRICS[name].help, self._samples[name])
            for name in METRICS
            if name in self._samples
        ]


class Source:
    """Where families come from: the scoreboard at this descriptor, and what the supervisor says of itself."""

    def __init__(self, fd: int) -> None:
        self.board = Scoreboard(fd)
        self._own = OwnReader()

    def collect(self, status: Mapping[str, Any] | None, now: float | None = None) -> list[Family]:
        """Everything; `status` is the answer to `ctl status`, or None where the supervisor does not answer."""
        now = time.time() if now is None else now
        known = status or {}
        numbers = {each.get("number", -1): each["name"] for each in known.get("listeners", ())}
        sums, found = self._sums([number for number in numbers if number >= 0]), Families()
        _of_server(found, sums, known, now)
        _of_shared_limits(found, self.board.words)
        _of_connections(found, sums)
        _of_listeners(found, sums, known)
        _of_workers(found, sums, known, self.board.serving, now)
        _of_processes(found, sums, known, self.board.serving)
        _of_bus(found, sums, known.get("bus", {}))
        own, dropped = own_families(sums.own)
        found.add("own_metrics_dropped_total", dropped)
        return [*found.all(), *own]

    def _sums(self, numbers: Iterable[int]) -> Sums:
        for _ in range(ATTEMPTS):
            before = self.board.words[H_CHANGES]
            sums = self._read(numbers)
            if self.board.words[H_CHANGES] == before and not before % 2:
                break
        return sums

    def _read(self, numbers: Iterable[int]) -> Sums:
        board, own = self.board, list[tuple[Row | None, Own]]()
        board.look_again()
        rows = board.rows()
        counted = details.total(board.fileno(), (0, *(row.index for row in rows))) or Counted()
        for row in (None, *rows):
            index = 0 if row is None else row.index
            if (its_own := self._own.read(board.fileno(), index)) is not None:
                own.append((row, its_own))
        listeners = {number: board.totals_at(number) for number in numbers}
        return Sums(board.totals(), counted, own, rows, listeners, board.moved, board.probes)


def _of_server(found: Families, sums: Sums, status: Mapping[str, Any], now: float) -> None:
    if status:
        facts = {each: str(status.get(each, "")) for each in ("version", "build", "model", "style", "name")}
        found.add(
            "build_info",
            1,
            version=facts["version"],
            build=facts["build"],
            python=platform.python_version(),
            **{each: facts[each] for each in ("model", "style", "name")},
        )
        for state in STATES_OF_SERVER:
            found.add("state", int(str(status.get("state", "")).lower() == state), state=state)
        found.add("start_time_seconds", now - status.get("uptime", 0.0))
        found.add("generation", status.get("generation"))
        found.add("max_connections", status.get("max_connections"))
    for name, word in PLAIN.items():
        found.add(name, sums.counted[word])
    for name, (label, words) in LABELLED.items():
        for word, value in words.items():
            found.add(name, sums.counted[word], **{label: value})


def _of_shared_limits(found: Families, words: memoryview[int]) -> None:
    if words[LEAST] <= 0:  # they are not shared
        return
    up = words[UP] == 1 and words[UNTIL] > time.monotonic_ns()
    found.add("shared_limits_up", int(up))
    found.add("shared_limits_hosts", believed(words[HOSTS]) if up else 1)
    found.add("shared_limits_sources", believed(words[SOURCES]))
    found.add("shared_limits_failures_total", believed(words[FAILURES]))


def _of_connections(found: Families, sums: Sums) -> None:
    totals = sums.totals
    for name, key in OF_LISTENERS.items():
        if name != "connections_refused_total":
            found.add(name, totals[key])
    for reason, count in totals["closed"].items():
        if reason != "moved":
            found.add("connections_closed_total", count, reason=reason)
    found.add("slow_callbacks_total", totals["slow_callbacks"])
    found.add("connection_probes_total", sums.probes)
    found.add("connections_moved_total", sums.moved)
    for name, (start, bounds) in HISTOGRAMS.items():
        histogram = sums.counted.histogram(start)
        found.add(name.removeprefix("pronghorn_"), Buckets(histogram.up_to(bounds), histogram.sum, histogram.each))


def _of_listeners(found: Families, sums: Sums, status: Mapping[str, Any]) -> None:
    for each in status.get("listeners", ()):
        number, name = each.get("number", -1), each["name"]
        counts = sums.listeners.get(number, sums.totals)
        for metric, key in OF_LISTENERS.items():
            found.add(f"listener_{metric}", counts[key], listener=name)
        ends = sums.counted.ends_at(number) if number >= 0 else sums.totals["closed"]
        for reason, count in ends.items():
            if reason != "moved":
                found.add("listener_connections_closed_total", count, listener=name, reason=reason)
        for address, queue in zip(each.get("listening", ()), each.get("accept_queue", ()), strict=False):
            if queue is not None:
                found.add("listener_accept_queue_length", queue["waiting"], listener=name, address=address)
                found.add("listener_accept_queue_limit", queue["backlog"], listener=name, address=address)
        for certificate in each.get("certificates", ()):
            labels = {"listener": name, "certificate": certificate["name"]}
            found.add("tls_certificate_expiry_timestamp_seconds", certificate["until"], **labels)
    found.add("handover_pause_max_seconds", status.get("handover", {}).get("longest_pause"))
    try:
        kernel = overflows()
    except OSError:
        return
    found.add("kernel_listen_overflows_total", kernel.overflowed)
    found.add("kernel_listen_drops_total", kernel.dropped)


def _of_workers(found: Families, sums: Sums, status: Mapping[str, Any], serving: int, now: float) -> None:
    found.add("workers_wanted", status.get("workers", {}).get("wanted"))
    states = [STATES.get(row.state, "") for row in sums.rows]
    for state in [*STATES.values()][1:]:
        found.add("workers", states.count(state), state=state)
    clock = time.monotonic()
    current, old = list[Row](), list[Row]()
    for row in sums.rows:
        (current if row.generation >= serving else old).append(row)
    for generation, rows in ((SERVING, current), (OLD, old)):
        found.add("generation_workers", len(rows), generation=generation)
        found.add("generation_connections_open", sum(row.open for row in rows), generation=generation)
    for row in _by_slot(current).values():
        worker = str(row.slot)
        found.add("worker_connections_open", row.open, worker=worker)
        found.add("worker_heartbeat_age_seconds", max(0.0, clock - row.beat), worker=worker)
        found.add("worker_start_time_seconds", now - (clock - row.started), worker=worker)
        found.add("worker_connections_accepted_total", row.accepted, worker=worker)
        found.add("worker_messages_total", row.messages, worker=worker)


def _by_slot(rows: Iterable[Row]) -> dict[int, Row]:
    """The newest worker of each slot, in order."""
    return {row.slot: row for row in sorted(rows, key=lambda row: (row.slot, row.started))}


def _of_processes(found: Families, sums: Sums, status: Mapping[str, Any], serving: int) -> None:
    workers = _by_slot(row for row in sums.rows if row.generation >= serving)
    processes = [("supervisor", "", status.get("pid", 0))]
    processes += [("worker", str(slot), row.pid) for slot, row in workers.items()]
    for side in status.get("side_processes", ()):
        processes.append((side["name"], "", side.get("pid") or 0))
        found.add("side_process_restarts_total", side.get("restarts"), process=side["name"])
    for process, worker, pid in processes:
        if pid:
            labels = {"process": process, "worker": worker}
            found.add("process_cpu_seconds_total", cpu_seconds(pid), **labels)
            found.add("process_resident_memory_bytes", resident_memory(pid) or None, **labels)
            has, most = descriptors_of(pid)
            found.add("process_open_descriptors", has, **labels)
            found.add("process_max_descriptors", most, **labels)


def _of_bus(found: Families, sums: Sums, bus: Mapping[str, Any]) -> None:
    """Nothing where nobody has used it yet."""
    counts, broker = bus.get("counts"), bus.get("broker")
    if broker is not None:
        found.add("bus_broker_up", int(broker["up"]))
        found.add("bus_broker_losses_total", broker["losses"])
    if counts is None:
        return
    found.add("bus_publications_total", counts["publications"])
    found.add("bus_deliveries_total", counts["deliveries"])
    for outcome in OUTCOMES:
        found.add("bus_questions_total", counts["questions"].get(outcome, 0), outcome=outcome)
    found.add("bus_messages_dropped_total", sums.counted["bus_dropped"], reason="slow_connection")
    for reason in ("slow_worker", "slow_broker"):
        found.add("bus_messages_dropped_total", counts[reason], reason=reason)
    for name in ("names", "members", "links"):
        found.add(f"bus_{name}", bus[name])


# Handlers' own.


def own_families(found: Iterable[tuple[Row | None, Own]]) -> tuple[list[Family], int]:
    """The metrics of handlers, summed over all workers, and how many series there was no room for. Where two workers
    have declared one name in two ways, as during a reload, that of the newer one counts."""
    described: dict[str, tuple[float, metrics.Description]] = {}
    values: dict[tuple[metrics.Description, tuple[str, ...]], list[list[float]]] = {}
    dropped = 0
    for row, own in found:
        dropped += own.dropped
        for metric, labels, its_values in own.series:
            born = row.started if row is not None else 0.0
            if metric.name not in described or born >= described[metric.name][0]:
                described[metric.name] = born, metric
            if (metric, labels) in values or len(values) < MOST_SERIES:
                values.setdefault((metric, labels), []).append(its_values)
            else:
                dropped += 1
    families: dict[metrics.Description, list[Sample]] = {}
    for (metric, labels), each in values.items():
        if described[metric.name][1] == metric:
            sample = Sample((*zip(metric.labels, labels, strict=True),), _together(metric, each))
            families.setdefault(metric, []).append(sample)
    return [
        Family(each.name, each.kind, each.help, samples)
        for each, samples in sorted(families.items(), key=lambda item: item[0].name)
    ], dropped


def _together(metric: metrics.Description, each: list[list[float]]) -> float | Buckets:
    if metric.kind == metrics.GAUGE and metric.across != "sum":
        return (min if metric.across == "min" else max)(values[0] for values in each)
    sums: list[float] = [sum(values) for values in zip(*each, strict=True)]
    if metric.kind != metrics.HISTOGRAM:
        return sums[0]
    up_to, total = list[tuple[float, int]](), 0
    for bound, count in zip((*metric.buckets, float("inf")), sums, strict=False):
        total += int(count)
        up_to.append((bound, total))
    return Buckets(up_to, sums[-1])
