"""One measurement of one server, and the rounds over all of them.

Law: a cost is CPU time of the server's whole process tree (user and system, reaped children included) for each message
or connection, bytes of memory that the tree holds for each connection, or milliseconds. The rounds are interleaved, so
that a noisy moment strikes all alike. Who fails is named on standard error, and that round of it is empty.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from loading import Row, crowd, load, result
from processes import process, worker_resident
from scenarios import Scenario
from servers import PATIENCE, Contender, Field, NotServing, Server, serving

from pronghorn.bench.tree import held, settled, spent

WARM_UP = 0.15
IN_A_ROUND = 20_000
IDLE = 5000
MOST_IDLE = {"select": 900, "thread": 900, "threading-server": 900, "c-select": 900}
MOST_IDLE |= {"fork": 150, "forking-server": 150, "bare-fork": 150}
Results = dict[str, list[Row]]  # by server: a row of each round
Measure = Callable[[Server, Scenario, float], Row]


def measured(server: Server, scenario: Scenario) -> int:
    """The process whose CPU counts, with all below it."""
    return server.worker() if scenario.worker_only else server.pid


def messages(server: Server, scenario: Scenario, seconds: float) -> Row:
    """Messages over connections that stay: opening and closing them is not measured."""
    root = measured(server, scenario)
    words = ["--connections", scenario.connections, "--size", scenario.size, "--seconds", seconds]
    words += ["--depth", scenario.depth, *(["--tls"] if scenario.tls else [])]
    with load(server, *words, "--paced", slow=scenario.slow_client) as following:
        following()
        before = settled(root)
        row = result(following("go"))
        return with_cost(row, spent(root) - before)


def connections(server: Server, scenario: Scenario, seconds: float) -> Row:
    """A connection for each message; what is left of them after the last reply is waited for."""
    root = measured(server, scenario)
    before = settled(root)
    words = ["--connections", scenario.connections, "--size", scenario.size, "--seconds", seconds]
    with load(server, *words, "--per-connection", "--messages", IN_A_ROUND) as following:
        row = result(following())
    return with_cost(row, settled(root) - before)


def with_cost(row: Row, seconds: float) -> Row:
    """With microseconds of CPU for each message, of the server and of the client, and messages a second."""
    row["cost"] = seconds * 1e6 / row["messages"]
    row["client"] = row.get("cpu", 0.0) * 1e6 / row["messages"]
    row["rate"] = row["messages"] / row["seconds"]
    return row


def memory(contender: Contender, idle: int) -> Row:
    """Of a fresh server: bytes for each idle connection, and MiB of the worker before there are any."""
    count = min(idle, MOST_IDLE.get(contender.name.rpartition(" ")[2], idle))
    with serving(contender) as server:
        warm(server)
        before, worker = held(server.pid), worker_resident(server.pid)
        with crowd(server, count):
            return {"cost": (held(server.pid) - before) / count, "idle": count, "worker": worker / 1024**2}


def warm(server: Server) -> None:
    """What the first connections load, later ones share."""
    with load(server, "--messages", 200, "--connections", 4) as following:
        following()
    settled(server.pid)


def start(contender: Contender) -> Row:
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


MEASURES: dict[str, Measure] = {"messages": messages, "connections": connections}


def rounds(field: Field, scenario: Scenario, chosen: Iterable[Contender], seconds: float, idle: int) -> Results:
    """What each contender gave, round by round."""
    results: Results = {}
    if scenario.measure in ("memory", "start"):
        for contender in list(chosen) * scenario.rounds:
            one = (lambda each: memory(each, idle)) if scenario.measure == "memory" else start
            results.setdefault(contender.name, []).append(attempt(one, contender))
        return results
    measure = MEASURES[scenario.measure]
    servers = field.start(chosen)
    short = min(WARM_UP, seconds)
    servers = [each for each in servers if attempt(measure, each, scenario, short)]
    order = random.Random(1)
    for _ in range(scenario.rounds):
        for server in order.sample(servers, len(servers)):
            results.setdefault(server.name, []).append(attempt(measure, server, scenario, seconds))
    return {each.name: results[each.name] for each in servers}


def attempt(measure: Callable[..., Row], *arguments: object) -> Row:
    try:
        return measure(*arguments)
    except NotServing as error:
        print(error, file=sys.stderr)
        return {}
