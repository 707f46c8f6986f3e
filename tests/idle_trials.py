"""The trial of idle connections: thousands that have said one thing each, and what it costs to keep their deadlines.

Law: as in ledger_trials.py: a trial gives a Result, and asserts nothing. The clients are processes of their own, each
with no more connections than a process may have descriptors beside the server's: `python idle_trials.py HOST PORT N`.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from boards import board_of
from launch import launched
from ledger_trials import Result, until

SPARE = 100  # descriptors of a process that are no idle connections
CLIENTS = 2
MOST = 0.02  # of a processor, beside what a server takes that has no connections
LOOKS = 4


def why_not(count: int) -> str:
    """Why a process cannot hold so many here; empty if it can."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY or count + SPARE <= most:
        return ""
    return f"{count:,} connections need {count + SPARE:,} descriptors, and {most:,} are the most here"


@contextmanager
def crowd(address: tuple[str, int], count: int) -> Iterator[None]:
    """So many connections, each of which has been answered once."""
    with ExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            share = count // CLIENTS + (number < count % CLIENTS)
            command = [sys.executable, __file__, *map(str, address), str(share)]
            clients.append(stack.enter_context(subprocess.Popen(command, stdin=-1, stdout=-1)))
            stack.callback(clients[-1].kill)
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline() != b"answered\n":
                raise RuntimeError("a client was not answered")
        yield


def work(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def share_of(pids: list[int], seconds: float) -> float:
    """How much of a processor they take, in so many seconds."""
    before, began = work(pids), time.monotonic()
    until(lambda: time.monotonic() >= began + seconds, 2 * seconds)
    return (work(pids) - before) / (time.monotonic() - began)


def idle(
    folder: Path, count: int, model: str = "epoll", seconds: float = 10.0, handler: str = "upper", **settings: Any
) -> Result:
    """`count` connections that say nothing for `seconds`: none is lost, and they cost 2 % of a processor at most beside
    what the server takes without them, in one look of a few."""
    result = Result(f"R6 idle connections, {model}", why_not(count))
    if result.skipped:
        return result
    with launched(folder, handler, model=model, **{"workers": 1, **settings}) as server:
        pids = [server.pid, *server.ready(1)]
        alone = share_of(pids, seconds / 2)
        with crowd(server.address, count):
            board = board_of(server)
            for _ in range(LOOKS):  # a busy machine takes longer for the same now and then, and not always
                share = share_of(pids, seconds)
                if share <= MOST + alone:
                    break
            held = sum(each.open for each in board.rows())
    result.figures |= {"processor": f"{share:.2%}", "without them": f"{alone:.2%}", "connections": f"{held:,}"}
    result.expect(held == count, f"{held:,} of {count:,} connections are left")
    result.expect(share <= MOST + alone, f"{count:,} idle connections cost {share - alone:.1%} of a processor")
    return result


def hold(host: str, port: int, count: int) -> None:
    """The client: open so many, one message each, and hold them until standard input ends."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    socks = []
    for _ in range(count):
        socks.append(socket.create_connection((host, port), timeout=30))
        socks[-1].sendall(b"hello\n")
        if socks[-1].recv(100) != b"HELLO\n":
            return
    print("answered", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
