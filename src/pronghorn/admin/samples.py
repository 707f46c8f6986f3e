"""The samples of the status page's charts: read from the scoreboard and the kernel, at no cost to the server.

Law: nothing here asks another process, and nothing that stands on the scoreboard is believed if it cannot be true.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from array import array
from collections import deque
from collections.abc import Iterable, Mapping

from pronghorn.admin.page.history import Rates, Sample
from pronghorn.admin.page.view import Record
from pronghorn.listening.sock_diag import overflows
from pronghorn.scoreboard import histograms
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.counts import believed
from pronghorn.scoreboard.details import COUNTED, SERVICE, WORD
from pronghorn.scoreboard.histograms import Histogram
from pronghorn.scoreboard.map import REGION, REGIONS
from pronghorn.system.processes import cpu_seconds
from pronghorn.system.record_copies import LastRecords

SERVER = "server"
COUNTERS = ("accepted", "refused", "messages", "bytes_in", "bytes_out", "handler_errors")
OF_WORKERS = ("accepted", "messages", "bytes_in", "bytes_out")
PARTS = {"p50": 0.5, "p99": 0.99}
SMOOTH = 10  # seconds over which a quantile is told: one message in 64 is timed
ALONE = ("ended.", "refused.", "deaths", "overflows")  # counters that are series of their own
DEATHS = ("exit_signal", "exit_unwanted")
REFUSED = {
    "refused_access": "--allow or --deny",
    "refused_source_count": "--max-connections-per-source",
    "refused_rate": "--accept-rate",
    "refused_source_rate": "--accept-rate-per-source",
    "refused_crash_penalty": "--crash-penalty",
    "refused_proxy_header": "PROXY header late",
    "refused_proxy": "no PROXY header",
    "refused_descriptors": "no descriptor",
    "refused_resources": "no resources",
}
PAUSE = 1.0  # seconds without reading after more records than anybody could look at


class Samples:
    """A feed's source, for a server with this scoreboard; `records` is the descriptor by which copies of the log's
    records come, or -1."""

    def __init__(self, board: Scoreboard, records: int = -1) -> None:
        self._board = board
        self._rates = Rates()
        self._times: deque[list[int]] = deque(maxlen=SMOOTH + 1)
        self._last = LastRecords(records) if records >= 0 else None
        if self._last is not None:
            asyncio.get_running_loop().add_reader(self._last, self._read)

    def sample(self, now: float) -> Sample:
        """The values of this second; the rates are of the time since the last sample."""
        totals = self._board.totals()
        counters = {name: float(totals[name]) for name in COUNTERS}
        counters |= {f"ended.{name}": float(count) for name, count in totals["closed"].items() if name != "moved"}
        counters |= self._details(counters["refused"])
        with contextlib.suppress(OSError):  # not every system tells
            counters["overflows"] = float(overflows().overflowed)
        workers = [*self._workers()]
        self._rates.see(now, [(SERVER, counters), *workers])
        rates = self._rates.rates
        server = rates.get(SERVER, {})
        sample: Sample = {"open": float(totals["open"])}
        sample |= {name: server.get(name) for name in ("accepted", "messages", "bytes_in", "bytes_out")}
        sample |= {name: rate for name, rate in server.items() if name.startswith(ALONE)}
        sample |= self._quantiles()
        used = [rates[name]["cpu_seconds"] for name, _ in workers if "cpu_seconds" in rates.get(name, ())]
        sample["cpu"] = 100.0 * sum(used) if used else None
        return sample

    def rates(self) -> Mapping[str, Mapping[str, float]]:
        """By owner (`server`, `worker PID`) and counter, a second."""
        return self._rates.rates

    def records(self) -> Iterable[Record]:
        """The last records of the log, the oldest first."""
        for each in self._last.kept if self._last is not None else ():
            yield Record(each.at, logging.getLevelName(each.level), each.process, each.text)

    def _workers(self) -> Iterable[tuple[str, dict[str, float]]]:
        for row in self._board.rows():
            counters = {name: float(getattr(row, name)) for name in OF_WORKERS}
            used = cpu_seconds(row.pid)
            yield f"worker {row.pid}", counters if used is None else {**counters, "cpu_seconds": used}

    def _details(self, refused: float) -> dict[str, float]:
        """What is counted beside the rows, for all of them: refusals by reason, deaths of workers."""
        counts, times = [0] * len(COUNTED), [0] * histograms.BUCKETS
        for index in (0, *self._board.taken()):
            for total, start in ((counts, WORD[COUNTED[0]]), (times, SERVICE)):
                for place, value in enumerate(words_of(self._board.fileno(), index, start, len(total))):
                    total[place] += value
        self._times.append(times)
        by_name = dict(zip(COUNTED, counts, strict=True))
        found = {f"refused.{why}": float(by_name[name]) for name, why in REFUSED.items()}
        found["refused.other"] = max(0.0, refused - sum(found.values()))
        return found | {"deaths": float(sum(by_name[name] for name in DEATHS))}

    def _quantiles(self) -> Sample:
        """Of the messages that were timed in the last seconds."""
        first, last = self._times[0], self._times[-1]
        timed = Histogram([max(0, now - before) for now, before in zip(last, first, strict=True)])
        return {name: timed.quantile(part) if timed.count else None for name, part in PARTS.items()}

    def _read(self) -> None:
        """Reads what has come, and nothing for a moment after more than anybody could look at."""
        assert self._last is not None
        loop, last = asyncio.get_running_loop(), self._last
        if last.take(time.monotonic()) > 0 and last.crowded:
            loop.remove_reader(last)
            loop.call_later(PAUSE, loop.add_reader, last, self._read)


def words_of(fd: int, index: int, start: int, count: int) -> Iterable[int]:
    """Some words of the region behind a row of the scoreboard's file; none where nobody has counted there."""
    raw = os.pread(fd, count * 8, REGIONS + index * REGION + start * 8)
    return map(believed, array("q", raw[: len(raw) // 8 * 8]))
