"""The result of a request as a person reads it: a list, a table, or a sentence.

Law: every word that came from the server is made printable; a table fits 80 columns on a terminal, and is not cut in a
pipe.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pronghorn.control.quantities import number as number
from pronghorn.control.quantities import size as size
from pronghorn.control.quantities import span as span
from pronghorn.errors import printable

WIDE = 1000  # columns of a pipe
SILENT = 3.0  # seconds without a heartbeat that stand out
GOOD, BAD, DIM = "green", "yellow", "dim"
COLOURS = {"SERVING": GOOD, "STARTING": BAD, "STOPPING": BAD, "DRAINING": BAD, "DRAINED": BAD, "LEAVING": DIM}


def show(what: str, result: dict[str, Any]) -> None:
    """The result of the command `what` on standard output."""
    if what == "status":
        show_status(result)
    elif what == "workers":
        show_workers(result["workers"])
    else:
        say(sentence(what, result))


def sentence(what: str, result: dict[str, Any]) -> str:
    """What has been done, in one sentence or two."""
    if what == "reload":
        later = result.get("later") or ()
        end = f" Only the next start takes these settings: {', '.join(later)}." if later else ""
        end += _moves(result)
        if old := result.get("accepting"):
            end += f" {old} old worker{'s' if old > 1 else ''} may still accept."
        return f"Reloaded in {result['seconds']:.1f} s: generation {result['generation']} serves.{end}"
    if what == "upgrade":
        return f"Upgraded: process {result['pid']} serves.{_moves(result)}"
    if what == "resize":
        count = result["workers"]
        return f"Resized: {count} worker{'s' if count > 1 else ''}."
    if what == "log-level":
        return f"The log begins at {result['level']} (before: {result['before']}), until a reload says otherwise."
    if what == "reopen":
        files = " and ".join(result["files"])
        return f"Opened anew: {files}" if files else "There is no file to open anew: no --log-file and no --access-log."
    if what == "drain":
        return "Drained: no worker is left, and new clients wait. To go on: pronghorn ctl resize N"
    cut = result.get("cut", 0)
    end = f"; the drain deadline cut {cut} connection{'s' if cut > 1 else ''}" if cut else ""
    return f"Stopped{end}."


def show_status(status: dict[str, Any]) -> None:
    """One server, as a list of what it is and what it does."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for head, words in status_rows(status):
        table.add_row(head, words)
    put(table)


def status_rows(status: dict[str, Any]) -> list[tuple[str, Text]]:
    """The lines of `show_status`."""
    workers = status["workers"]
    state = text(status["state"], COLOURS.get(status["state"], ""))
    state.append(f", up {span(status['uptime'])}")
    state.append(f"; drains in {left:.0f} s" if (left := status.get("drains_in", 0.0)) else "", BAD)
    change = status.get("under_way")
    state.append(f"; {'an' if change == 'upgrade' else 'a'} {printable(change)} is under way" if change else "", BAD)
    ready = f"{workers['ready']} of {workers['wanted']} ready"
    ready += (
        f", {workers['draining']} on {'its' if workers['draining'] == 1 else 'their'} way out"
        if workers["draining"]
        else ""
    )
    server = f"{status['name']} (process {status['pid']}, Pronghorn {status['version']}"
    server += f", {status['build']})" if "build" in status else ")"
    short = workers["ready"] < workers["wanted"]
    failed, faults = status.get("handler_errors", 0), status.get("faults", 0)
    last, slow = printable(str(status.get("last_fault") or "")), status.get("slow_callbacks", 0)
    return [
        ("Server", text(server)),
        ("State", state),
        ("Handler", text(f"{status['handler']} ({status['style']} style) under {status['model']}")),
        *_listening(status),
        ("Workers", text(f"{ready}, generation {status['generation']}", BAD if short else "")),
        *_old_workers(status.get("old", {})),
        ("Connections", text(_connections(status))),
        *_handover(status.get("handover", {})),
        ("Messages", text(f"{status['messages']:,}")),
        ("Bytes", text(f"{size(status['bytes_in'])} in, {size(status['bytes_out'])} out")),
        *_bus(status.get("bus", {})),
        *_side_processes(status.get("side_processes", ())),
        *([("Handler errors", text(f"{failed:,}", BAD))] if failed else []),
        *([("Slow callbacks", text(f"{slow:,}: see the log", BAD))] if slow else []),
        *([("Faults", text(f"{faults:,} of the supervisor, which goes on; the last: {last}", BAD))] if faults else []),
        ("Last reload", _last_reload(status["last_reload"])),
    ]


def _bus(bus: dict[str, Any]) -> list[tuple[str, Text]]:
    """What carries the bus, whether its broker is there, and what is joined; nothing where nobody uses it."""
    carrier, broker = bus.get("carrier", "local"), bus.get("broker")
    if carrier == "off" or (carrier == "local" and "names" not in bus):
        return []
    words, colour = carrier, ""
    if carrier != "local":
        there = broker is not None and broker["up"]
        lasts = f" for {span(max(0.0, time.time() - broker['since']))}" if broker and broker["since"] else ""
        words += f": {'there' if there else 'away'}{lasts}"
        words += f", {broker['why']}" if broker and broker["why"] else ""
        colour = "" if there else BAD
    if "names" in bus:
        members, names = bus["members"], bus["names"]
        words += f"\n{names:,} name{'s' * (names != 1)} joined here, by {members:,} connection{'s' * (members != 1)}"
        counts = bus.get("counts", {})
        lost = counts.get("slow_worker", 0) + counts.get("slow_broker", 0)
        words += f"; {lost:,} messages dropped" if lost else ""
    return [("Bus", text(printable(words), colour))]


def _side_processes(sides: Iterable[dict[str, Any]]) -> list[tuple[str, Text]]:
    lines = []
    for each in sides:
        words = f"{each['name']}: {each['state']}" + (f" (process {each['pid']})" if each["pid"] else "")
        words += f", at unix:{each['socket']}" if each.get("socket") else ""
        words += _sharing(each["sharing"]) if each.get("sharing") else ""
        words += f", started again {each['restarts']:,} times; the last end: {each['why']}" if each["restarts"] else ""
        lines.append(printable(words))
    return [("Side processes", text("\n".join(lines)))] if lines else []


def _sharing(state: dict[str, Any]) -> str:
    """How limits are shared with other hosts."""
    if not state["up"]:
        return f", limits are this host's own: {state['why']}"
    return f", limits are shared by {state['hosts']:,} host{'s' * (state['hosts'] != 1)}"


def _old_workers(old: dict[str, Any]) -> list[tuple[str, Text]]:
    if not old.get("workers"):
        return []
    count = old["connections"]
    words = f"{old['workers']:,}, with {count:,} open connection{'s' * (count != 1)}"
    words += "".join(f"; {open:,} of {name}, which is gone" for name, open in old.get("listeners", {}).items())
    programs = old.get("programs", 0)
    if (left := old.get("goodbyes", 0)) > 0:
        words += f"; goodbyes for another {left:.0f} s"
    words += f"; {programs} program{'s' if programs > 1 else ''} before an upgrade" if programs else ""
    return [("Old workers", text(words))]


def _moves(result: dict[str, Any]) -> str:
    """A sentence on what becomes of the connections that there were."""
    moved, stayed = result.get("moved", 0), result.get("stayed", 0)
    left, spread = result.get("left", 0), result.get("spread", 0.0)
    words = f" {_moved(moved, result.get('longest_pause', 0.0))}" if moved else ""
    if stayed and moved and not spread:
        return f"{words}; {stayed:,} stayed."
    fate = f"told goodbye over {spread:g} s" if spread else "kept by old workers"
    return words + "." * bool(moved) + (f" {left:,} connection{'s are' if left > 1 else ' is'} {fate}." if left else "")


def _moved(count: int, pause: float) -> str:
    return f"{count:,} connection{'s' if count != 1 else ''} moved, held up for {pause * 1000:.1f} ms at most"


def _handover(handover: dict[str, Any]) -> list[tuple[str, Text]]:
    moved, stay = handover.get("moved", 0), handover.get("stay", {})
    elsewhere = handover.get("elsewhere", 0)
    if not (moved or stay or elsewhere):
        return []
    words = [_moved(moved, handover["longest_pause"])] if moved else []
    words += [f"{count:,} stay{'s' * (count == 1)}: {why}" for why, count in stay.items()]
    if elsewhere:
        words.append(f"{elsewhere:,} with the program before an upgrade: the log says why, there")
    return [("Handover", text("\n".join(words)))]


def _listening(status: dict[str, Any]) -> list[tuple[str, Text]]:
    """Where it listens; and what each listener serves and has, where several can be told apart."""
    listeners = [each for each in status.get("listeners", ()) if "accepted" in each]
    if not listeners:
        return [("Listening at", text("\n".join(_address(each, status.get("tls")) for each in status["listening"])))]
    lines = []
    for each in listeners:
        places = ", ".join(_address(one, each["tls"] == "on") for one in each["listening"])
        name = "" if each["name"] in each["listening"] else f"{each['name']}: "
        counts = f"{each['open']:,} open, {each['accepted']:,} accepted"
        counts += f", {each['refused']:,} refused" if each["refused"] else ""
        lines.append(f"{name}{places}, {each['handler']} ({each['style']} style): {counts}")
    return [("Listeners", text("\n".join(lines)))]


def _address(address: str, tls: Any) -> str:
    if not tls:
        return address
    return f"{address} (TLS)" if address.startswith("unix:") else f"tls://{address}"


def _connections(status: dict[str, Any]) -> str:
    words = f"{status['open']:,} open, {status['accepted']:,} accepted"
    words += f", {status['refused']:,} refused" if status["refused"] else ""
    closed = [f"{count:,} {reason}" for reason, count in status.get("closed", {}).items() if count]
    return words + (f"\nclosed: {', '.join(closed)}" if closed else "")


def _last_reload(last: dict[str, Any] | None) -> Text:
    if last is None:
        return text("none yet")
    ago = span(max(0.0, time.time() - last["ended_at"]))
    if last["ok"]:
        return text(f"{ago} ago, took {last['seconds']:.1f} s")
    return text(f"failed {ago} ago: {' '.join(last.get('why', '').split())}", BAD)


def show_workers(rows: list[dict[str, Any]]) -> None:
    """A table of workers; `Silent` is the time since the last heartbeat."""
    if not rows:
        say("There is no worker. To have some: pronghorn ctl resize N")
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for head, key, _ in COLUMNS:
        table.add_column(head, justify="left" if key == "state" else "right", no_wrap=True)
    for row in rows:
        styles = {"state": COLOURS.get(row["state"], ""), "beat_age": BAD if row["beat_age"] >= SILENT else ""}
        table.add_row(*(text(words(row[key]), styles.get(key, "")) for _, key, words in COLUMNS))
    put(table)


def say(words: str) -> None:
    """One plain sentence."""
    put(text(words))


def put(what: Text | Table) -> None:
    """Onto standard output, as wide as the terminal; in a pipe as wide as it is, without colours or blanks at the ends
    of lines. NO_COLOR is obeyed."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as captured:
        console.print(what)
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def text(words: str, style: str = "") -> Text:
    """Words as they stand, printable."""
    return Text(printable(words), style)


def _short_size(value: int | None) -> str:
    return size(value, short=True)


def _short_span(seconds: float) -> str:
    return span(seconds, short=True)


COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("Slot", "slot", str),
    ("State", "state", str),
    ("Process", "pid", str),
    ("Gen", "generation", str),
    ("Age", "age", _short_span),
    ("Open", "open", number),
    ("Accepted", "accepted", number),
    ("Messages", "messages", number),
    ("In", "bytes_in", _short_size),
    ("Out", "bytes_out", _short_size),
    ("Memory", "memory", _short_size),
    ("Silent", "beat_age", _short_span),
)
"""The table of workers: head, key of the result, and how the value is written."""
