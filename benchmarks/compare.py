"""Pronghorn's models beside bare competitors, in one run on one machine.

Law: every server runs in a process of its own and serves the same upper-case service; the rounds are interleaved, so
that a noisy moment strikes all alike, and a ratio compares two numbers of the same round. What is measured is what
the server spends (CPU time of its whole process tree, reaped children included), not what the client
waits for. Whatever is started here is ended here, by its process id, on Ctrl-C too.

    python benchmarks/compare.py                          # CPU per message
    python benchmarks/compare.py connections              # CPU per connection of one message
    python benchmarks/compare.py memory                   # resident memory per idle connection
    python benchmarks/compare.py start                    # time until the server answers
    python benchmarks/compare.py guards                   # CPU per message with every deadline and limit, and with none
    python benchmarks/compare.py observers                # CPU per connection with access log and metrics
    python benchmarks/compare.py observers-messages       # the same per message
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import baselines
from processes import held, process, settled, spent, worker_resident

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
PATIENCE = 15.0
MODELS = tuple("iterative fork prefork thread pool select poll epoll asyncio uvloop gevent".split())
REFERENCE = "asyncio-protocol"
RIVALS = {"pronghorn fork": "forking-server", "pronghorn thread": "threading-server"}
FEW_AT_A_TIME = {"pronghorn iterative", "pronghorn prefork", "pronghorn pool"}
MOST_IDLE = {"pronghorn select": 900, "pronghorn thread": 900, "threading-server": 900}
MOST_IDLE |= {"pronghorn fork": 150, "forking-server": 150}
RATES = {"rate": "per second", "p50": "p50 µs", "p99": "p99 µs"}
COLUMNS = {  # by mode: what the cost is, and what is shown beside it
    "messages": ("CPU µs/message", RATES),
    "connections": ("CPU µs/connection", RATES),
    "memory": ("bytes/connection", {"idle": "connections", "worker": "worker MiB"}),
    "start": ("ms to accept", {"reply": "ms to reply"}),
    "guards": ("CPU µs/message", RATES),
    "observers": ("worker CPU µs/connection", RATES),
    "observers-messages": ("worker CPU µs/message", RATES),
}
OBSERVERS = {
    "unobserved": "",
    "access-log": "--access-log /dev/null",
    "metrics": "--statsd 127.0.0.1:9",
    "both": "--access-log /dev/null --statsd 127.0.0.1:9",
}
MUCH = str(10**6)
GUARDS = {  # none at all, or each of them, without a bound that the load would reach
    "unguarded": "--idle-timeout 0 --message-timeout 0 --write-timeout 0 --max-connection-age 0 --keepalive 0 "
    "--user-timeout 0",
    "guarded": "--idle-timeout 300s --message-timeout 30s --write-timeout 30s --max-connection-age 1h --keepalive 60s "
    f"--user-timeout 60s --allow 127.0.0.0/8 --deny 127.9.9.0/24 --max-connections {MUCH} "
    f"--max-connections-per-source {MUCH} --accept-rate {MUCH}",
}
VARIANTS = {"guards": GUARDS, "observers": OBSERVERS, "observers-messages": OBSERVERS}
Row = dict[str, Any]
Subject = TypeVar("Subject")


class NotServing(Exception):
    """A server did not come up, or the load client failed; the text says why."""


class Contender(NamedTuple):
    """One server: its name in the tables, and the command that starts it on a free port."""

    name: str
    command: list[str]


def contenders(options: argparse.Namespace) -> list[Contender]:
    """Those that the mode can measure."""
    script, bare = str(HERE / "baselines.py"), options.baselines
    serve = [sys.executable, "-m", "pronghorn", "serve", "upper", "--bind", "127.0.0.1:0"]
    if options.tls:
        serve += ["--tls-cert", options.tls[0], "--tls-key", options.tls[1]]
        bare = [name for name in bare if name in baselines.SPEAK_TLS]
    serve += ["--model"]
    if options.mode in VARIANTS:
        return [
            Contender(f"{model} {name}", [*serve, model, *settings.split()])
            for model in options.models
            for name, settings in VARIANTS[options.mode].items()
        ]
    found = [Contender(f"pronghorn {model}", [*serve, model]) for model in options.models]
    if options.mode == "start":  # the others cannot be told their port
        return found
    if options.mode == "memory":  # where few are served at a time, idle connections wait in the kernel's queue
        found = [each for each in found if each.name not in FEW_AT_A_TIME]
    return [Contender(name, [sys.executable, script, name, *options.tls]) for name in bare] + found


# Servers and their load


class Server(NamedTuple):
    """A contender that serves: its process, what it has said, and its address."""

    contender: Contender
    process: subprocess.Popen[str]
    log: IO[str]
    address: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def state(self) -> str:
        status = self.process.poll()
        return "it still runs" if status is None else f"it has ended ({status}): {last_line(self.log)}"


@contextmanager
def serving(contender: Contender) -> Iterator[Server]:
    """The contender, once it has said where it listens."""
    with tempfile.TemporaryFile("w+") as log, process(contender.command, stdout=log, stderr=log) as started:
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(r"Listening at: t(?:cp|ls)://127\.0\.0\.1:(\d+)", text_of(log))):
            if started.poll() is not None or time.monotonic() > deadline:
                raise NotServing(f"{contender.name} does not serve: {last_line(log)}")
            time.sleep(0.01)
        yield Server(contender, started, log, f"127.0.0.1:{match[1]}")


def text_of(log: IO[str]) -> str:
    return os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")


def last_line(log: IO[str]) -> str:
    return (text_of(log).strip() or "it said nothing").splitlines()[-1]


@contextmanager
def load(server: Server, *options: object) -> Iterator[Callable[..., str]]:
    """The load client; what is given back sends it a line, if there is one to send, and returns its next one."""
    command = [sys.executable, str(HERE / "load.py"), server.address, *map(str, options)]
    with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        writer, reader = client.stdin, client.stdout

        def following(word: str = "") -> str:
            if word:
                with suppress(BrokenPipeError):
                    writer.write(word + "\n")
                    writer.flush()
            if not (line := reader.readline()):
                raise NotServing(f"{server.contender.name}: the load client failed; {server.state()}")
            return line

        yield following
        writer.close()
        client.wait(PATIENCE)


# The modes: each measures one server once


def bounds(options: argparse.Namespace) -> list[object]:
    tls = ["--tls"] if options.tls else []
    return ["--connections", options.connections, "--size", options.size, "--seconds", options.seconds, *tls]


def measured(server: Server, options: argparse.Namespace) -> int:
    """The process whose CPU counts, with all below it: the worker where it is set beside one with observers."""
    if options.mode not in ("observers", "observers-messages"):
        return server.pid
    deadline = time.monotonic() + PATIENCE
    while not (match := re.search(r"Worker 1 is ready, process id (\d+)", text_of(server.log))):
        if time.monotonic() > deadline:
            raise NotServing(f"{server.contender.name} has no worker: {last_line(server.log)}")
        time.sleep(0.01)
    return int(match[1])


def measure_messages(server: Server, options: argparse.Namespace) -> Row:
    root = measured(server, options)
    with load(server, *bounds(options), "--paced") as following:
        following()
        before = settled(root)
        result: Row = json.loads(following("go"))
        return with_cost(result, spent(root) - before)


def measure_connections(server: Server, options: argparse.Namespace) -> Row:
    root = measured(server, options)
    before = settled(root)
    with load(server, *bounds(options), "--per-connection", "--messages", 20_000) as following:
        result: Row = json.loads(following())
    return with_cost(result, settled(root) - before)


def with_cost(result: Row, seconds: float) -> Row:
    """The result with microseconds of server CPU per message, and messages per second."""
    result["cost"] = seconds * 1e6 / result["messages"]
    result["rate"] = result["messages"] / result["seconds"]
    return result


def measure_memory(contender: Contender, options: argparse.Namespace) -> Row:
    """Of a fresh server: bytes per idle connection, and MiB of the worker before there are any."""
    count = min(options.idle, MOST_IDLE.get(contender.name, options.idle))
    with serving(contender) as server:
        with load(server, "--messages", 200, "--connections", 4) as following:
            # what the first ones load, later ones share
            following()
        settled(server.pid)
        before, worker = held(server.pid), worker_resident(server.pid)
        with load(server, "--idle", count, "--seconds", 60) as following:
            following()
            return {"cost": (held(server.pid) - before) / count, "idle": count, "worker": worker / 1024**2}


def measure_start(contender: Contender, options: argparse.Namespace) -> Row:
    """Milliseconds from exec until a connect succeeds, and until the first reply is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [word.replace("127.0.0.1:0", f"127.0.0.1:{port}") for word in contender.command]
    began = time.perf_counter()
    with process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        connection = knock(port, started, began)
        accepted = time.perf_counter()
        with connection:
            connection.settimeout(PATIENCE)
            connection.sendall(b"hello\n")
            if not connection.recv(64).startswith(b"HELLO"):
                raise NotServing(f"{contender.name} gave a wrong reply")
        return {"cost": (accepted - began) * 1000, "reply": (time.perf_counter() - began) * 1000}


def knock(port: int, started: subprocess.Popen[str], began: float) -> socket.socket:
    while time.perf_counter() - began < PATIENCE and started.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), 1)
        except ConnectionRefusedError:
            time.sleep(0.002)
    raise NotServing(f"nothing listens on port {port}")


# Rounds over all of them, and what they come to


def rounds(options: argparse.Namespace, chosen: list[Contender]) -> dict[str, list[Row]]:
    """What each contender gave, round by round; whoever fails is named on standard error, and that round is empty."""
    results: dict[str, list[Row]] = {}
    if options.mode in ("memory", "start"):
        measure_fresh = measure_memory if options.mode == "memory" else measure_start
        for contender in chosen * options.rounds:
            results.setdefault(contender.name, []).append(attempt(measure_fresh, contender, options))
        return results
    measure = measure_connections if options.mode in ("connections", "observers") else measure_messages
    warm_up = argparse.Namespace(**vars(options))
    warm_up.seconds = min(0.3, options.seconds)
    with ExitStack() as stack:
        servers = []
        for contender in chosen:
            try:
                servers.append(stack.enter_context(serving(contender)))
            except NotServing as error:
                print(error, file=sys.stderr)
        servers = [server for server in servers if attempt(measure, server, warm_up)]
        for server in servers * options.rounds:
            results.setdefault(server.contender.name, []).append(attempt(measure, server, options))
    return results


def attempt(
    measure: Callable[[Subject, argparse.Namespace], Row], subject: Subject, options: argparse.Namespace
) -> Row:
    try:
        return measure(subject, options)
    except NotServing as error:
        print(error, file=sys.stderr)
        return {}


def rival(mode: str, name: str) -> str:
    """Whom the ratio compares with."""
    if mode in VARIANTS:
        return f"{name.split()[0]} {next(iter(VARIANTS[mode]))}"
    return RIVALS.get(name, REFERENCE) if mode == "connections" else REFERENCE


def summary(mode: str, results: dict[str, list[Row]]) -> list[list[str]]:
    """The table: a heading, then a line per contender, the cheapest first; medians over the rounds."""
    cost, others = COLUMNS[mode]
    lines = []
    for name, rows in results.items():
        if not any(rows):
            continue
        costs = [row["cost"] for row in rows if row]
        pairs = zip(rows, results.get(rival(mode, name), []), strict=False)
        ratios = [row["cost"] / other["cost"] for row, other in pairs if row and other and other["cost"]]
        ratio = f"{statistics.median(ratios):.2f} {rival(mode, name)}" if ratios else ""
        middle = statistics.median(costs)
        line = [name, figure(middle), f"{figure(min(costs))}-{figure(max(costs))}", ratio]
        line += [figure(statistics.median(row[key] for row in rows if row)) for key in others]
        lines.append((middle, line))
    heading = ["server", cost, "min-max", "ratio to", *others.values()]
    return [heading, *(line for _, line in sorted(lines))]


def figure(value: float) -> str:
    """A number with about three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show(title: str, table: list[list[str]]) -> None:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        print(title, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in table), sep="\n")
        return
    shown = Table(box=box.SIMPLE_HEAD)
    for number, word in enumerate(table[0]):
        shown.add_column(word, justify="right" if number else "left", no_wrap=True)
    for line in table[1:]:
        shown.add_row(*line)
    print(title)
    Console(width=None if sys.stdout.isatty() else 140).print(shown)


def markdown(title: str, table: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in [table[0], rule, *table[1:]])


def machine() -> str:
    """Where the numbers come from; with the interpreter's own start, the floor of every start."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    start = (time.perf_counter() - began) * 1000
    python = f"{platform.python_implementation()} {platform.python_version()} (starts in {start:.0f} ms)"
    return f"{python}, {platform.system()} {platform.release()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.2f}"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare Pronghorn's models with bare competitors.")
    parser.add_argument("mode", nargs="?", choices=list(COLUMNS), default="messages")
    parser.add_argument("--models", default=",".join(MODELS), help="models of Pronghorn, with commas (%(default)s)")
    parser.add_argument("--baselines", default=",".join(baselines.SERVERS), help="competitors (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="over all servers (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="per server and round (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="open at any time (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a message (%(default)s)")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections of the memory mode (%(default)s)")
    parser.add_argument("--tls", action="store_true", help="over TLS, with a throw-away certificate (messages)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number of every round")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    options = parser.parse_args()
    options.models = [name for name in options.models.split(",") if name]
    options.baselines = [name for name in options.baselines.split(",") if name]
    if unknown := {*options.models} - {*MODELS} | {*options.baselines} - {*baselines.SERVERS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.tls and options.mode != "messages":
        parser.error("--tls is for messages")
    return options


@contextmanager
def certificate(wanted: bool) -> Iterator[list[str]]:
    """Paths of a certificate for localhost and its key; none if none is wanted."""
    if not wanted:
        yield []
        return
    import trustme

    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/cert.pem", f"{folder}/key.pem"]
        pair = trustme.CA().issue_cert("localhost")
        pair.cert_chain_pems[0].write_to_path(paths[0])
        pair.private_key_pem.write_to_path(paths[1])
        yield paths


def main() -> None:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = machine()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    with certificate(options.tls) as options.tls:
        results = rounds(options, contenders(options))
    title = f"{options.mode}{' over TLS' if '--tls' in sys.argv else ''}: {where}"
    table = summary(options.mode, results)
    show(title, table)
    if options.json:
        facts = {"mode": options.mode, "machine": where, "arguments": sys.argv[1:], "results": results}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(title, table))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
