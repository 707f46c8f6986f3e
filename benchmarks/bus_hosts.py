"""`make bench-bus`: messages from one connection to others on other hosts: the bus, and what people write by hand.

Law: all contenders have the same clients, protocol and loop (uvloop, where it is installed); rounds are interleaved,
and a figure is the median of its rounds. Hosts are servers on this machine, which know of each other by the broker
alone. What is counted is the processor time of all processes but the clients', by what they are.

    python benchmarks/bus_hosts.py          # three minutes: writes the table of docs/scale.md, and docs/scale-bus.svg
    python benchmarks/bus_hosts.py quick    # in moments, for its machinery: told on the terminal, and written nowhere
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import platform
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bus_load import Load
from plots import GREY, OURS, save
from processes import process
from servers import HERE, PATIENCE, ROOT, Contender, Server, pronghorn, serving

from pronghorn.bench.tree import family

SETTLING, DRAINING = 0.5, 2.0  # seconds
PAGE, PICTURE = ROOT / "docs" / "scale.md", ROOT / "docs" / "scale-bus.svg"
BEGIN, END = "<!-- make bench-bus: -->\n", "<!-- :make bench-bus -->\n"
PARTS = ("servers", "hubs", "broker")
BROKERS = {
    "redis": ("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"),
    "nats": ("nats-server", "-a", "127.0.0.1", "-p", "{port}"),
}


@dataclass(frozen=True)
class Scenario:
    """Who sends how much to whom."""

    title: str
    hosts: int
    members: int
    senders: int
    to_all: bool = False


SCENARIOS = {
    "one": Scenario("to one connection, 2 hosts", 2, 200, 32),
    "one-of-six": Scenario("to one connection, 6 hosts", 6, 200, 32),
    "room": Scenario("to each of 200 connections, 2 hosts", 2, 200, 4, to_all=True),
}
CONTENDERS = {  # and the broker that each needs
    "pronghorn, local": "",
    "pronghorn, Redis": "redis",
    "pronghorn, NATS": "nats",
    "by hand, Redis": "redis",
}
Row = dict[str, float]
Results = dict[str, dict[str, Row]]


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@contextmanager
def broker(kind: str, folder: str) -> Iterator[tuple[int, int]]:
    """A broker's process id and port; zeros where none is needed."""
    if not kind:
        yield 0, 0
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [each.format(port=port) for each in BROKERS[kind]]
    command[0] = program(command[0]) or command[0]
    with open(f"{folder}/broker", "w") as log, process(command, cwd=folder, stdout=log, stderr=log) as started:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield started.pid, port


def server_of(name: str, number: int, port: int, workers: int) -> Contender:
    """One host of a contender."""
    if name.startswith("by hand"):
        return Contender(f"{name} {number}", (sys.executable, str(HERE / "bus_peer.py"), str(port)))
    url = f"{CONTENDERS[name]}://127.0.0.1:{port}" if CONTENDERS[name] else "local"
    settings = ("--bus", url, "--workers", str(workers), "--log-level", "info")
    return pronghorn("uvloop", *settings, handler="bus_member:Member", name=f"{name} {number}")


def spent(servers: list[Server], broker_pid: int) -> Row:
    """Seconds of processor time so far, by part."""
    found = dict.fromkeys(PARTS, 0.0)
    for each in servers:
        for pid in family(each.pid):
            is_hub = pid != each.pid and f"process id {pid}" not in each.said
            found["hubs" if is_hub else "servers"] += seconds_of(pid)
    if broker_pid:
        found["broker"] = seconds_of(broker_pid)
    return found


def seconds_of(pid: int) -> float:
    """Of all threads of a process, to the nanosecond (proc_pid_schedstat(5))."""
    total = 0
    for path in Path(f"/proc/{pid}/task").iterdir():
        total += int((path / "schedstat").read_text().split()[0])
    return total / 1e9


def measured(name: str, scenario: Scenario, seconds: float) -> Row:
    """One contender in one scenario. A local bus has as many workers as the others have hosts."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        broker_pid, port = stack.enter_context(broker(CONTENDERS[name], folder))
        hosts, workers = (scenario.hosts, 1) if CONTENDERS[name] else (1, scenario.hosts)
        servers = [stack.enter_context(serving(server_of(name, each, port, workers))) for each in range(hosts)]
        load = Load([each.port for each in servers], scenario.members, scenario.senders, scenario.to_all)
        return run(under_load(load, servers, broker_pid, seconds))


async def under_load(load: Load, servers: list[Server], broker_pid: int, seconds: float) -> Row:
    await load.open()
    await load.all_reached()
    load.begin()
    await asyncio.sleep(SETTLING)
    before, count, began = spent(servers, broker_pid), load.delivered, time.monotonic()
    await asyncio.sleep(seconds)
    after, count, took = spent(servers, broker_pid), load.delivered - count, time.monotonic() - began
    load.going = False
    deadline = time.monotonic() + DRAINING
    while load.lost() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    lost = load.lost()
    load.close()
    if not count:
        raise RuntimeError("no message came through")
    row = {part: (after[part] - before[part]) / count * 1e6 for part in PARTS}
    return {**row, "all": sum(row.values()), "per second": count / took, "lost": float(lost)}


try:
    from uvloop import run
except ImportError:
    from asyncio import run


def rounds(names: list[str], times: int, seconds: float) -> Results:
    """The median of each figure, by scenario and contender."""
    found: dict[tuple[str, str], list[Row]] = {}
    for number in range(times):
        for key, scenario in SCENARIOS.items():
            for name in names:
                row = measured(name, scenario, seconds)
                found.setdefault((key, name), []).append(row)
                told = ", ".join(f"{part} {value:,.0f}" for part, value in row.items())
                print(f"round {number + 1}, {scenario.title}: {name}: {told}", flush=True)
    results: Results = {}
    for (key, name), rows in found.items():
        results.setdefault(key, {})[name] = {part: statistics.median(row[part] for row in rows) for part in rows[0]}
    return results


def table(results: Results) -> str:
    """The table of docs/scale.md, and where it comes from."""
    lines = [
        "| | messages a second | CPU µs a message, in all | servers | hubs | broker |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for key, rows in results.items():
        lines.append(f"| **{SCENARIOS[key].title}** | | | | | |")
        for name, row in rows.items():
            parts = " | ".join(f"{row[part]:,.0f}" if row[part] else "" for part in PARTS)
            lines.append(f"| {name} | {row['per second']:,.0f} | {row['all']:,.0f} | {parts} |")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end"
    lines.append(f"\nRun on {now}: Python {platform.python_version()}, {machine}, clients on the same processors.\n")
    return "\n".join(lines)


def draw(results: Results, path: Path) -> None:
    """A row of bars for each scenario: the cost of a message, by part."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.family": "sans-serif"}
    matplotlib.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white"}
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, len(results), figsize=(11, 2.2), sharey=True)
    for axes, (key, rows) in zip(all_axes, results.items(), strict=True):
        names, left = list(rows)[::-1], [0.0] * len(rows)
        for part, color in zip(PARTS, (OURS, "#e3a77f", GREY), strict=True):
            widths = [rows[name][part] for name in names]
            axes.barh(names, widths, left=left, color=color, label=part)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axes.set_title(SCENARIOS[key].title, fontsize=9)
        axes.set_xlabel("CPU µs a message")
    all_axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def main() -> None:
    quick = sys.argv[1:] == ["quick"]
    there = [name for name, kind in CONTENDERS.items() if not kind or program(BROKERS[kind][0])]
    for name in CONTENDERS.keys() - set(there):
        print(f"left out: {name} ({BROKERS[CONTENDERS[name]][0]} is not installed)", file=sys.stderr)
    results = rounds(there, 1 if quick else 3, 0.3 if quick else 1.0)
    print(table(results))
    if not quick:
        write(results)


def write(results: Results) -> None:
    """The table in its place on the page, and the picture."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2])
    draw(results, PICTURE)


if __name__ == "__main__":
    main()
