"""What `pronghorn top` asks of a server, and the rates between two of its answers.

Law: nothing here waits, asks or draws. Rates are by the server's own clock (`uptime` of a status, `age` of a row), so
that a slow answer makes no wrong rate; what cannot be known yet is None. A key that an older server does not tell is
None too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, NamedTuple

Row = dict[str, Any]
Times = dict[float, int]  # how many messages took that long at most, in seconds, and longer than the bound before

WINDOW = 2.5  # seconds that a rate is of, at least: workers tell messages and bytes once or twice a second
REMEMBERED = 60.0  # seconds of which latencies are: only one message in many is timed
PAST = 60  # rates that are kept for the little charts
COUNTED = ("accepted", "refused", "messages", "bytes_in", "bytes_out", "handler_errors")
OF_THE_BUS = ("publications", "deliveries", "dropped")
OVERFLOWS = "kernel_listen_overflows"
OF_A_CONNECTION = ("messages", "bytes_in", "bytes_out")
PER_SECOND = "_per_second"
NUMBERS = ("open", *COUNTED, *(key + PER_SECOND for key in COUNTED))
BARS = "▁▂▃▄▅▆▇█"
ROWS = 100  # connections that are asked for


class View(NamedTuple):
    """Which connections are asked for: the first `limit` in the order of `sort`, of those that fit the `filters`."""

    sort: str = "age"
    reverse: bool = False
    filters: Mapping[str, Any] = {}
    limit: int = ROWS

    def request(self) -> dict[str, Any]:
        """The request of the control socket."""
        asked = {"command": "connections", "sort": self.sort, "limit": self.limit, **self.filters}
        return {**asked, "reverse": True} if self.reverse else asked


class Answer(NamedTuple):
    """What a server has said in one turn. Without `connections` it has none to tell, or cannot: `why` says."""

    status: Row
    workers: list[Row]
    connections: Row | None = None
    why: str = ""


class Frame(NamedTuple):
    """What is shown of one turn: rows with their rates added."""

    server: Row
    listeners: list[Row]
    workers: list[Row]
    connections: list[Row]
    matching: int | None
    """How many connections fit the filters, if the server says so."""
    missing: str
    """In words, which connections cannot be told; empty if all can."""
    why: str
    """Why there are no connections; empty if they are told."""
    past: dict[str, list[float]]
    """The last rates of the server, by their keys."""

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        connections = {
            "matching": self.matching,
            "missing": self.missing or self.why,
            "rows": self.connections,
        }
        return {
            "server": self.server,
            "listeners": self.listeners,
            "workers": self.workers,
            "connections": connections,
        }


class History:
    """The answers of the last seconds, from which rates are made; it begins anew when another server answers."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque()
        self._past: dict[str, deque[float]] = {}
        self._timed: deque[tuple[float, dict[str, Times]]] = deque()

    def add(self, answer: Answer) -> Frame:
        """The frame of this answer."""
        last = self._answers[-1].status if self._answers else answer.status
        if last.get("pid") != answer.status.get("pid") or _clock(last) > _clock(answer.status):
            self._answers.clear()
            self._timed.clear()
        base = self._base(answer)
        self._answers.append(answer)
        times = self._times(answer)
        server = {
            **with_rates(answer.status, base and base.status, "uptime", (*COUNTED, OVERFLOWS)),
            **quantiles(*times.values()),
            "bus": bus(answer.status, base and base.status),
        }
        whole = base is not None and _clock(answer.status) - _clock(base.status) >= WINDOW
        for key in ("accepted", "messages"):
            if whole and (rate := server[key + PER_SECOND]) is not None:
                self._past.setdefault(key, deque(maxlen=PAST)).append(rate)
        found = answer.connections or {}
        return Frame(
            server,
            listeners(answer.status, base and base.status),
            _workers(answer.workers, base.workers if base else (), times),
            _connections(found.get("connections") or (), (base and base.connections) or {}),
            found.get("matched"),
            missing(found),
            answer.why,
            {key: [*rates] for key, rates in self._past.items()},
        )

    def _times(self, answer: Answer) -> dict[str, Times]:
        """How long messages have taken in each worker lately, by its process id."""
        now = {
            str(each.get("pid")): {_number(bound) if bound is not None else inf: count for bound, count in times}
            for each in answer.workers
            if (times := each.get("service_times"))
        }
        clock = _clock(answer.status)
        self._timed.append((clock, now))
        while clock - self._timed[0][0] > REMEMBERED:
            self._timed.popleft()
        before = self._timed[0][1]
        return {
            pid: {bound: count - before.get(pid, {}).get(bound, 0) for bound, count in times.items()}
            for pid, times in now.items()
        }

    def _base(self, answer: Answer) -> Answer | None:
        """The answer that rates are counted from: the last one that is WINDOW old, or else the oldest."""
        now = _clock(answer.status)
        while len(self._answers) > 1 and now - _clock(self._answers[1].status) >= WINDOW:
            self._answers.popleft()
        return self._answers[0] if self._answers else None


def with_rates(row: Row, before: Row | None, clock: str, counted: Iterable[str]) -> Row:
    """The row, and for each of its counters that many a second since the row `before`, by the row's own `clock`."""
    seconds = _number(row.get(clock)) - _number(before.get(clock)) if before else 0.0
    return {**row, **{key + PER_SECOND: _rate(row, before, key, seconds) for key in counted}}


def bus(status: Row, before: Row | None) -> Row | None:
    """The bus with what it counts, and the rates of that; None where nobody uses it."""
    found = _bus(status)
    if found is None or (found["carrier"] == "local" and "names" not in found):
        return None
    return with_rates(found, before and _bus(before), "uptime", OF_THE_BUS)


def _bus(status: Row) -> Row | None:
    told = status.get("bus") or {}
    if told.get("carrier", "off") == "off":
        return None
    counts = told.get("counts") or {}
    dropped = counts.get("slow_worker", 0) + counts.get("slow_broker", 0)
    about = {key: told[key] for key in ("carrier", "broker", "names", "members") if key in told}
    counted = {key: counts.get(key, 0) for key in OF_THE_BUS[:-1]}
    return {**about, **counted, "dropped": dropped, "uptime": status.get("uptime")}


def listeners(status: Row, before: Row | None) -> list[Row]:
    """A row for each address: the first one of a listener has its counts, which are the server's where there is only
    one listener and it has no name."""
    whole = {key: status.get(key) for key in ("open", *COUNTED)}
    uptime = {"uptime": status.get("uptime")}
    earlier = {str(each.get("name")): each for each in (before or {}).get("listeners") or ()}
    found: list[Row] = []
    for each in status.get("listeners") or ():
        counts = {**(each if "accepted" in each else whole), **uptime}
        old: Row | None = None
        if before:
            source = earlier.get(str(each.get("name")), {}) if "accepted" in each else before
            old = {**source, "uptime": before.get("uptime")} if source else None
        counts = with_rates(counts, old, "uptime", COUNTED)
        queues = each.get("accept_queue") or ()
        for place, address in enumerate(each.get("listening") or ()):
            row = {"address": address, "queue": queues[place] if place < len(queues) else None}
            about = {key: each.get(key) for key in ("name", "handler", "style", "tls")}
            found.append({**row, **about, **({key: counts.get(key) for key in NUMBERS} if place == 0 else {})})
    return found


def quantiles(*times: Times) -> Row:
    """What half of the messages have not exceeded, and 99 in a hundred, in seconds."""
    found = sorted((bound, count) for each in times for bound, count in each.items() if count > 0)
    whole = sum(count for _, count in found)
    row: Row = {"p50_seconds": None, "p99_seconds": None}
    for key, part in (("p50_seconds", 0.5), ("p99_seconds", 0.99)):
        left = part * whole
        for bound, count in found:
            left -= count
            if left <= 0:
                row[key] = bound if bound < inf else None
                break
    return row


def _workers(rows: list[Row], before: Iterable[Row], times: dict[str, Times]) -> list[Row]:
    earlier = {str(each.get("pid")): each for each in before}
    found = []
    for row in rows:
        old = earlier.get(str(row.get("pid")))
        if old is not None and _number(old.get("age")) > _number(row.get("age")):
            old = None  # another process that has got the number
        more = with_rates(row, old, "age", (*COUNTED[:-1], "cpu_seconds"))
        cpu = more.pop("cpu_seconds" + PER_SECOND)
        more.pop("service_times", None)
        cpu_percent = None if cpu is None else round(cpu * 100, 1)
        found.append({**more, "cpu_percent": cpu_percent, **quantiles(times.get(str(row.get("pid")), {}))})
    return found


def _connections(rows: Iterable[Row], before: Row) -> list[Row]:
    earlier = {str(each.get("id")): each for each in before.get("connections") or ()}
    return [with_rates(row, earlier.get(str(row.get("id"))), "age", OF_A_CONNECTION) for row in rows]


def missing(found: Row) -> str:
    """What is not among the connections: those of workers that have not answered in time, and of a program before an
    upgrade."""
    said = [
        f"worker {each.get('worker')} (process {each.get('pid')}) does not answer for its {each.get('open')}"
        for each in found.get("silent") or ()
    ]
    if count := (found.get("elsewhere") or {}).get("open"):
        said.append(f"{count:,} more are with the program before an upgrade")
    return "; ".join(said)


def _rate(row: Row, before: Row | None, key: str, seconds: float) -> float | None:
    now, then = row.get(key), before.get(key) if before else None
    if seconds <= 0 or not isinstance(now, (int, float)) or not isinstance(then, (int, float)) or now < then:
        return None
    return round((now - then) / seconds, 3)


def _clock(status: Row) -> float:
    return _number(status.get("uptime"))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def chart(values: list[float], width: int) -> str:
    """The last `width` values as little bars, the greatest of them as a whole one."""
    shown = values[-width:] if width > 0 else []
    most = max(shown, default=0.0)
    if not most:
        return BARS[0] * len(shown)
    return "".join(BARS[min(len(BARS) - 1, int(each / most * (len(BARS) - 1) + 0.5))] for each in shown)


def in_order(rows: list[Row], key: str, reverse: bool) -> list[Row]:
    """Rows by one of their values; what is not known comes last."""
    known = [row for row in rows if row.get(key) is not None]
    words = any(isinstance(row[key], str) for row in known)
    known.sort(key=lambda row: str(row[key]) if words else _number(row[key]), reverse=reverse)
    return known + [row for row in rows if row.get(key) is None]
