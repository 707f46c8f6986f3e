"""Which model `pronghorn bench` recommends, in one sentence with its reason; docs/bench.md has the rules.

Law: what was measured with most clients counts. A model is no candidate that had an error or left a client without a
reply in any cell, or that fell behind the rate with most clients (with few, the connections are behind, and not the
server); nor is one that takes other handlers, which was not measured at all. Of the candidates those stay whose
throughput is within a tenth of the best; of these, those whose p99 is at most twice the best (what the load processes
were late by is taken off before); of these, those that use at most a twentieth more processor time than the cheapest;
then the least memory decides, and at last the order in which they were named. Other servers, of `--against`, are never
recommended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pronghorn.bench.results import LOAD, Cell
from pronghorn.bench.words import clients, duration, memory, rate

NEAR_THROUGHPUT = 0.9
NEAR_P99 = 2.0
NEAR_CPU = 1.05
KEPT = 0.01  # seconds behind a rate that is nothing


class Advice(msgspec.Struct, frozen=True):
    """The model that is recommended, or empty; the sentence; and why each that is no candidate is none."""

    model: str
    sentence: str
    ruled_out: dict[str, str] = {}


def recommend(cells: Iterable[Cell], models: Iterable[str], what: str = "messages") -> Advice:
    """The advice from all cells of these models; `what` is counted each second."""
    by_name: dict[str, list[Cell]] = {name: [] for name in models}
    for cell in cells:
        if cell.name in by_name and cell.rounds:
            by_name[cell.name].append(cell)
    ruled_out = {name: why for name, its in by_name.items() if (why := _objection(its))}
    left = [{cell.clients: cell for cell in its} for name, its in by_name.items() if name not in ruled_out]
    if not left:
        why = "; ".join(f"{name} {reason}" for name, reason in ruled_out.items())
        return Advice("", f"No model can be recommended: {why or 'none was measured'}.", ruled_out)
    most = max(set.intersection(*map(set, left)), default=0)  # an interrupted run has not all rows of all models
    most = most or max(map(max, left))
    candidates = [its[most] for its in left if most in its]
    if len(candidates) == 1:
        best, among = candidates[0], "is the only candidate" if len(by_name) > 1 else "was measured alone"
        return Advice(best.name, f"Recommended: {best.name}, which {among}: {_figures(best, what)}.", ruled_out)
    return _chosen(candidates, ruled_out, what)


def _chosen(candidates: list[Cell], ruled_out: dict[str, str], what: str) -> Advice:
    fastest = max(candidates, key=lambda each: each.throughput)
    left = [each for each in candidates if each.throughput >= NEAR_THROUGHPUT * fastest.throughput]
    reasons = []
    if len(left) < len(candidates):
        reasons.append("the most throughput" if len(left) == 1 else "throughput within a tenth of the best")
    left, reason = _within(left, _servers_p99, NEAR_P99, "the lowest p99")
    reasons += [reason] if reason else []
    left, reason = _within(left, lambda each: each.cpu, NEAR_CPU, "the least CPU")
    reasons += [reason] if reason else []
    left, reason = _within(left, lambda each: each.memory, 1.0, "the least memory")
    best = left[0]
    reasons += [reason] if reason and len(reasons) < 3 else []
    because = f", with {' and '.join(filter(None, [', '.join(reasons[:-1]), reasons[-1]]))}" if reasons else ""
    note = ""
    if any(each.limit == LOAD for each in candidates):
        note = " (the load processes were the limit: CPU tells more here than throughput)"
    return Advice(best.name, f"Recommended: {best.name}{because}: {_figures(best, what)}{note}.", ruled_out)


def _servers_p99(cell: Cell) -> float | None:
    """The p99 without what the load processes themselves were late by, on a busy machine; not less than the median."""
    p99, median = cell.quantile(0.99), cell.quantile(0.5)
    return None if p99 is None or median is None else max(p99 - cell.late, median)


def _within(
    left: list[Cell], value: Callable[[Cell], float | None], factor: float, words: str
) -> tuple[list[Cell], str]:
    """Those whose value is at most `factor` times the least, and the words for that if they are fewer."""
    known = {each.name: found for each in left if (found := value(each)) is not None}
    if len(known) < len(left) or len(left) == 1:
        return left, ""
    least = min(known.values())
    kept = [each for each in left if known[each.name] <= factor * least]
    if len(kept) == len(left):
        return left, ""
    return kept, words if len(kept) == 1 or factor <= NEAR_CPU else "a p99 of at most twice the best"


def _figures(cell: Cell, what: str) -> str:
    parts = [f"{rate(cell.throughput)} {what} a second", f"p99 {duration(cell.quantile(0.99))}"]
    if cell.cpu is not None:
        parts.append(f"{duration(cell.cpu)} of CPU each")
    if cell.memory is not None:
        parts.append(f"{memory(cell.memory)} a connection")
    return f"{', '.join(parts)} with {clients(cell.clients)}"


def _objection(cells: list[Cell]) -> str:
    """Why a model is no candidate; empty if it is one."""
    if not cells:
        return "was not measured"
    most = max(cell.clients for cell in cells)
    for cell in cells:
        if cell.errors:
            kinds = ", ".join(f"{count:,} x {kind}" for kind, (count, _) in cell.errors.items())
            return f"had errors with {clients(cell.clients)} ({kinds})"
        if cell.unserved:
            return f"left {cell.unserved:,} of {clients(cell.clients)} without a reply"
        late = cell.behind > max(KEPT, 2 * cell.late)  # and not for the load processes' own lateness
        if cell.unanswered and late and cell.clients == most:
            if cell.limit == LOAD:
                return (
                    f"could not be asked at the rate with {clients(cell.clients)}: the load processes had no time left"
                )
            return f"fell behind the rate by {duration(cell.behind)} with {clients(cell.clients)}"
        if not cell.throughput:
            return f"answered nothing with {clients(cell.clients)}"
    return ""
