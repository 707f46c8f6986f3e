"""The lines above the tables of `pronghorn top`: the server as a whole, and which connections are shown; one in detail.

Law: as for columns.py: printable, one line each, no wider than the terminal.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from pronghorn.cli.ctl.tables import BAD, COLOURS, DIM, number, size, span
from pronghorn.cli.top.columns import rate, seconds, word
from pronghorn.cli.top.model import OVERFLOWS, PER_SECOND, Frame, Row, View, chart

CHART = 30
HEADS = {"rtt_us": "round-trip time", "tcp_state": "TCP state", "pid": "process"}
WORDS = {"idle": "idle time", "rtt_us": "round-trip time", "bytes_in": "bytes in", "bytes_out": "bytes out"}


def summary(frame: Frame, width: int) -> list[Text]:
    """The server, in three lines, the bus in one where it is used, and what is wrong."""
    server = frame.server
    state = str(server.get("state", "?"))
    first = Text().append(word(server.get("name", "?")), "bold")
    first.append("  ").append(word(state), COLOURS.get(state, ""))
    first.append(f"  up {span(_number(server, 'uptime'))}")
    first.append(f"  generation {word(server.get('generation', '?'))}")
    if change := server.get("under_way"):
        first.append(f"  {word(change)} under way", BAD)
    first.append(f"  {word(server.get('handler', ''))} under {word(server.get('model', '?'))}", DIM)
    lines = [first, _connections(server), _messages(server), *_bus(server.get("bus")), *_trouble(server)]
    room = width - max(len(lines[1]), len(lines[2])) - 2
    for line, key in ((lines[1], "accepted"), (lines[2], "messages")):
        bars = chart(frame.past.get(key, []), min(CHART, room))
        if len(bars) > 3:
            line.append(" " * (width - len(line) - len(bars)) + bars, DIM)
    return [_fitting(line, width) for line in lines]


def _connections(server: Row) -> Text:
    line = Text("Connections ")
    line.append(f"{number(_count(server, 'open'))} open", "bold")
    line.append(f"  {_rate(server, 'accepted')} new")
    line.append(f"  {number(_count(server, 'accepted'))} accepted")
    workers = server.get("workers") or {}
    ready, wanted = _count(workers, "ready"), _count(workers, "wanted")
    line.append("  workers ").append(f"{ready}/{wanted}", BAD if ready < wanted else "")
    if going := _count(server.get("old") or {}, "workers") or _count(workers, "draining"):
        line.append(f" +{going} old", BAD)
    return line


def _messages(server: Row) -> Text:
    line = Text("Messages    ")
    line.append(f"{_rate(server, 'messages')}", "bold").append(f"  {number(_count(server, 'messages'))} in all")
    for words, key in (("in", "bytes_in"), ("out", "bytes_out")):
        each = server.get(key + PER_SECOND)
        line.append(f"  {words} {'-' if each is None else size(round(each))}/s")
    if server.get("p99_seconds") is not None:
        line.append(f"  p50 {seconds(_number(server, 'p50_seconds'))}  p99 {seconds(_number(server, 'p99_seconds'))}")
    return line


def _bus(bus: Row | None) -> list[Text]:
    """Whether the broker is there, what goes over the bus, and what is joined."""
    if bus is None:
        return []
    line, broker = Text("Bus         "), bus.get("broker") or {}
    away = bus["carrier"] != "local" and not broker.get("up")
    if bus["carrier"] != "local":
        line.append("broker ").append("away" if away else "there", BAD if away else "").append("  ")
    line.append(f"{_rate(bus, 'publications')} published", "bold").append(f"  {_rate(bus, 'deliveries')} delivered")
    if lost := _count(bus, "dropped"):
        each = bus.get("dropped" + PER_SECOND)
        line.append(f"  {number(lost)} dropped" + (f" ({rate(each)}/s)" if each else ""), BAD)
    names, members = _count(bus, "names"), _count(bus, "members")
    line.append(f"  {number(names)} name{'s' * (names != 1)} of {number(members)} connection{'s' * (members != 1)}")
    line.append(f"  {word(bus['carrier'])}", DIM)
    if away and broker.get("why"):
        line.append(f": {word(broker['why'])}", BAD)
    return [line]


def _trouble(server: Row) -> list[Text]:
    """What an operator wants to know at once; nothing where there is nothing."""
    found = []
    for words, key in (("refused", "refused"), ("handler errors", "handler_errors"), ("supervisor's faults", "faults")):
        if count := _count(server, key):
            each = server.get(key + PER_SECOND)
            found.append(f"{number(count)} {words}" + (f" ({rate(each)}/s)" if each else ""))
    if each := server.get(OVERFLOWS + PER_SECOND):
        found.append(f"{rate(each)} connections/s come to full accept queues of this host")
    last = server.get("last_reload")
    if isinstance(last, dict) and not last.get("ok"):
        found.append(f"the last reload failed: {word(' '.join(str(last.get('why', '')).split()))}")
    return [Text("Trouble     ").append("; ".join(found), BAD)] if found else []


def shown(frame: Frame, view: View, text: str) -> str:
    """Which connections the table has, in words; `text` is the filter as it was typed."""
    if frame.why:
        return frame.why
    words = f"{len(frame.connections):,}"
    if frame.matching is not None and frame.matching != len(frame.connections):
        words += f" of {frame.matching:,}"
    words += f" connection{'s' * ((frame.matching or len(frame.connections)) != 1)}"
    words += f" by {WORDS.get(view.sort, view.sort.replace('_', ' '))}{', reversed' if view.reverse else ''}"
    words += f", only {word(text)}" if text else ""
    return words + (f"; {word(frame.missing)}" if frame.missing else "")


def details(row: Row) -> list[tuple[str, str]]:
    """Everything that is known of one connection: head and words."""
    found = []
    for key, value in row.items():
        if value is None or value is False or value == {} or (key.endswith(PER_SECOND) and not value):
            continue
        if isinstance(value, dict):
            head = "" if key == "fields" else f"{'TLS' if key == 'tls' else key} "
            found += [(f"{head}{word(name)}", word(each)) for name, each in value.items() if each is not None]
        else:
            found.append((word(HEADS.get(key) or key.replace(PER_SECOND, "/s").replace("_", " ")), _detail(key, value)))
    return found


def _detail(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, (int, float)):
        if key in ("age", "idle"):
            return span(float(value))
        if key.startswith("bytes") or key.endswith("queue"):
            return f"{size(round(value))}" + (f" ({value:,})" if isinstance(value, int) and value >= 1024 else "")
        if key == "rtt_us":
            return f"{value / 1000:.3f} ms"
        return f"{value:,}" if key in ("messages", "retransmits") else f"{value}"
    return word(value)


def _fitting(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line


def _rate(row: Row, key: str) -> str:
    value = row.get(key + PER_SECOND)
    return "-/s" if value is None else f"{rate(value)}/s"


def _count(row: Row, key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) else 0


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0
