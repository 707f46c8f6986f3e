"""What is wrong with a server, in sentences: the first line of the status page, and the list below it.

Law: facts in, sentences out, the worst first; each sentence says what is wrong, where, and if there is one, the command
that says more or mends it. A look at the page shall be enough to know whether to go on sleeping.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from pronghorn.admin.page.history import History
from pronghorn.control.quantities import number, span
from pronghorn.errors import printable

Level = Literal["good", "note", "warn", "bad"]
ORDER: dict[Level, int] = {"bad": 0, "warn": 1, "note": 2, "good": 3}
SILENT = 3.0  # seconds without a heartbeat that stand out
DEAF = 10.0  # seconds without one that mean a worker serves nobody
FULL = 0.8  # of an accept queue
MOST_NAMED = 3
DAY = 86400.0  # seconds
SOON = 14 * DAY  # before a certificate's end

# How a connection may end for a fault of ours, or of the handler's.
OURS: dict[str, tuple[Level, str, str]] = {
    "error": ("warn", "ended by errors of the handler", ": the log says where"),
    "killed": ("bad", "lost with a process that died", ": the log says why"),
    "timeout": ("note", "cut at a deadline", ""),
    "handshake": ("note", "ended by a failed TLS handshake", ""),
}


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, or worth a look."""

    level: Level
    text: str


def problems(status: dict[str, Any], workers: list[dict[str, Any]], history: History, why: str = "") -> list[Problem]:
    """All that is wrong, the worst first. `why` there is no status, if there is none."""
    if not status:
        more = f" ({printable(why, 200, '')})" if why else ""
        found = [Problem("bad", f"The supervisor does not answer: what stands here may be old{more}.")]
    else:
        found = [*_of_server(status), *_of_listeners(status)]
    found += [*_of_workers(workers), *_lately(history)]
    return sorted(found, key=lambda each: ORDER[each.level])


def _of_server(status: dict[str, Any]) -> list[Problem]:
    found = []
    state, workers = status.get("state"), status.get("workers", {})
    if state == "STARTING":
        found.append(Problem("warn", "The server is starting: no worker serves yet."))
    elif state == "DRAINED":
        found.append(Problem("bad", "The server is drained: clients wait. To go on: pronghorn ctl resize N"))
    elif state == "DRAINING":
        found.append(Problem("bad", "The server is draining: it takes no new connections."))
    else:
        missing = workers.get("wanted", 0) - workers.get("ready", 0)
        if missing > 0:
            level: Level = "bad" if not workers.get("ready") else "warn"
            some = f"{missing} of {workers.get('wanted', 0)} workers {'is' if missing == 1 else 'are'} not ready"
            found.append(Problem(level, f"{some}: they are being replaced. The log says what happened."))
    if left := status.get("drains_in"):
        found.append(Problem("warn", f"The server drains in {left:.0f} s: it is not ready, and accepts until then."))
    if change := status.get("under_way"):
        found.append(Problem("note", f"{'An' if change == 'upgrade' else 'A'} {printable(str(change))} is under way."))
    last = status.get("last_reload")
    if last and not last.get("ok"):
        why = printable(" ".join(str(last.get("why", "")).split()), 300, "")
        found.append(Problem("warn", f"The last reload failed, and changed nothing: {why}"))
    if faults := status.get("faults"):
        last_fault = printable(str(status.get("last_fault") or ""), 300, "")
        found.append(Problem("warn", f"The supervisor had {number(faults)} faults of its own; the last: {last_fault}"))
    broker = status.get("bus", {}).get("broker")
    if broker and not broker.get("up"):
        told = printable(str(broker.get("why", "")), 300, "")
        found.append(Problem("warn", f"The broker of the bus is away, and other hosts are not reached. {told}"))
    for side in status.get("side_processes", ()):
        if side.get("state") not in ("running", "starting", "ended"):
            told = printable(str(side.get("why", "")), 200, "")
            found.append(Problem("warn", f"The {printable(str(side.get('name')))} process has died: {told}"))
    return found


def _of_listeners(status: dict[str, Any]) -> list[Problem]:
    found = []
    for each in status.get("listeners", ()):
        for address, queue in zip(each.get("listening", ()), each.get("accept_queue", ()), strict=False):
            if queue and queue.get("backlog") and queue["waiting"] >= FULL * queue["backlog"]:
                text = f"{queue['waiting']:,} of {queue['backlog']:,} clients that can wait at {printable(address)} do"
                found.append(Problem("bad", f"{text}: workers do not accept them fast enough."))
        found += [_of_certificate(each["name"], one) for one in each.get("certificates", ()) if _soon(one) < SOON]
    return found


def _soon(certificate: dict[str, Any]) -> float:
    """Seconds until it ends."""
    return float(certificate["until"]) - time.time()


def _of_certificate(listener: object, certificate: dict[str, Any]) -> Problem:
    left = _soon(certificate)
    words = "has expired: clients refuse it" if left <= 0 else f"expires in {span(left)}"
    what = f"The certificate for {printable(str(certificate['name']), 100, '')} at {printable(str(listener), 100, '')}"
    return Problem("bad" if left < DAY else "warn", f"{what} {words}.")


def _of_workers(workers: list[dict[str, Any]]) -> list[Problem]:
    silent = [each for each in workers if each["beat_age"] >= SILENT and each["state"] in ("SERVING", "DRAINING")]
    if not silent:
        return []
    worst = max(each["beat_age"] for each in silent)
    named = ", ".join(f"{each['slot']} (process {each['pid']})" for each in silent[:MOST_NAMED])
    named += f" and {len(silent) - MOST_NAMED} more" if len(silent) > MOST_NAMED else ""
    one = len(silent) == 1
    what = f"Worker{'' if one else 's'} {named} {'has' if one else 'have'} given no sign of life for {span(worst)}"
    return [Problem("bad" if worst >= DEAF else "warn", f"{what}: a handler that blocks, or a machine that is full.")]


def _lately(history: History) -> list[Problem]:
    """What was counted in the last minute."""
    found = []
    for name in history.names("ended."):
        reason = name.removeprefix("ended.")
        if reason in OURS and (count := round(history.lately(name))):
            level, words, where = OURS[reason]
            some = f"{number(count)} connection{'s were' if count > 1 else ' was'} {words} in the last minute{where}."
            found.append(Problem(level, some))
    if died := round(history.lately("deaths")):
        some = f"{number(died)} worker{'s have' if died > 1 else ' has'} died in the last minute"
        found.append(Problem("warn", f"{some}, and {'are' if died > 1 else 'is'} replaced: the log says why."))
    refused = {name.removeprefix("refused."): round(history.lately(name)) for name in history.names("refused.")}
    if total := sum(refused.values()):
        by = ", ".join(f"{number(count)} {printable(why)}" for why, count in refused.items() if count)
        some = f"{number(total)} connection{'s were' if total > 1 else ' was'} refused in the last minute"
        found.append(Problem("warn", f"{some}{f' ({by})' if by else ''}."))
    if lost := round(history.lately("overflows")):
        some = f"The kernel has dropped {number(lost)} client{'s' if lost > 1 else ''} in the last minute"
        found.append(Problem("warn", f"{some}: an accept queue was full, here or of another program."))
    return found


def level_of(found: list[Problem]) -> Level:
    """The level of the page: that of the worst."""
    levels = {each.level for each in found}
    return "bad" if "bad" in levels else "warn" if "warn" in levels else "good"


def first_line(found: list[Problem], status: dict[str, Any], workers: list[dict[str, Any]]) -> str:
    """The first line of the page."""
    serious = [each for each in found if each.level in ("bad", "warn")]
    if len(serious) == 1:
        return serious[0].text.rstrip(".")
    if serious:
        return f"{len(serious)} things are wrong; the worst: {serious[0].text.rstrip('.')}"
    counts = status.get("workers", {})
    ready, wanted = counts.get("ready", 0), counts.get("wanted", 0)
    count = status.get("open", 0)
    return (
        f"All is well: {ready} of {wanted} worker{'s' if wanted != 1 else ''} serve{'s' if wanted == 1 else ''} "
        f"{number(count)} connection{'s' if count != 1 else ''}"
    )
