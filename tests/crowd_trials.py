"""The trial of a crowd: thousands of connections at once, all of which speak, rest, and speak again.

Law: as in ledger_trials.py: a trial gives a Result, and asserts nothing. The clients are processes of their own, which
come from many addresses of 127.0.0.0/8, since one address has fewer ports than that:
`python crowd_trials.py HOST PORT COUNT`. Each connection sends words of its own, and checks that they come back.
"""

from __future__ import annotations

import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from boards import board_of
from idle_trials import why_not, work
from launch import launched
from ledger_trials import Result, until
from pronghorn.bench.tree import held

CLIENTS = 2
SOURCES = 100
BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # Python names it since 3.12
PATIENCE = 60.0
MOST = 0.05  # of a processor, while all are silent: gevent's are looked at one by one, for peers that have left


class Crowd:
    """The processes of the clients: `ask` has every connection say something, and tells the seconds until all had the
    right reply; None if one had not."""

    def __init__(self, clients: list[subprocess.Popen[bytes]]) -> None:
        self.clients = clients

    def answered(self) -> bool:
        """Whether each client says so."""
        told = []
        for client in self.clients:
            assert client.stdout is not None
            told.append(client.stdout.readline())
        return all(line == b"answered\n" for line in told)

    def ask(self) -> float | None:
        began = time.monotonic()
        for client in self.clients:
            assert client.stdin is not None
            client.stdin.write(b"ask\n")
            client.stdin.flush()
        return time.monotonic() - began if self.answered() else None


@contextmanager
def crowd(address: tuple[str, int], count: int) -> Iterator[Crowd]:
    """So many connections, opened; the clients end with the block."""
    with ExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            share = count // CLIENTS + (number < count % CLIENTS)
            command = [sys.executable, __file__, *map(str, address), str(share), str(number)]
            clients.append(stack.enter_context(subprocess.Popen(command, stdin=-1, stdout=-1)))
            stack.callback(clients[-1].kill)
        yield Crowd(clients)


def at_once(
    folder: Path, count: int, model: str = "epoll", seconds: float = 10.0, handler: str = "upper", **settings: Any
) -> Result:
    """`count` connections at once: all are answered, cost next to nothing while they rest, speak again, leave."""
    result = Result(f"R22 connections at once, {model}", why_not(count))
    if result.skipped:
        return result
    with launched(folder, handler, model=model, **{"workers": 1, **settings}) as server:
        pids = [server.pid, *server.ready(1)]
        board, empty, began = board_of(server), held(server.pid), time.monotonic()
        with crowd(server.address, count) as clients:
            first = clients.ask()
            opened, full = time.monotonic() - began, held(server.pid)
            before, rested = work(pids), time.monotonic()
            until(lambda: time.monotonic() >= rested + seconds, 2 * seconds)
            share = (work(pids) - before) / (time.monotonic() - rested)
            still, again = open_now(board), clients.ask()
        gone = until(lambda: not open_now(board), PATIENCE)
    result.figures |= {"connections": f"{still:,}", "opened and answered in": f"{opened:.1f} s"}
    result.figures |= {"answered again in": f"{again or 0:.1f} s", "processor, silent": f"{share:.2%}"}
    result.figures["bytes a connection"] = f"{(full - empty) / count:,.0f}"
    result.expect(first is not None, "a connection had no right reply at first")
    result.expect(again is not None, "a connection had no right reply after the rest")
    result.expect(still == count, f"{still:,} of {count:,} connections were left")
    result.expect(share <= MOST, f"{count:,} silent connections cost {share:.1%} of a processor")
    result.expect(gone, "the server still counts connections of clients that have left")
    return result


def open_now(board: Any) -> int:
    return sum(each.open for each in board.rows())


# The client


def connected(place: tuple[str, int], number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
    sock.bind((f"127.0.0.{2 + number % SOURCES}", 0))
    sock.settimeout(PATIENCE)
    sock.connect(place)
    return sock


def right(socks: list[socket.socket], name: str) -> bool:
    """Whether all replies come, each the upper case of what its connection has sent."""
    owed = {}
    with select.epoll() as poller:
        for number, sock in enumerate(socks):
            words = f"connection {number} of client {name}\n".encode()
            owed[sock.fileno()] = (sock, words.upper())
            sock.sendall(words)
            poller.register(sock, select.EPOLLIN)
        while owed:
            if not (events := poller.poll(PATIENCE)):
                return False
            for descriptor, _ in events:
                sock, reply = owed.pop(descriptor)
                if sock.recv(200) != reply:
                    return False
                poller.unregister(descriptor)
    return True


def converse(host: str, port: int, count: int, name: str) -> None:
    """Open so many; then have all of them speak for each line of standard input, until its end."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    socks = [connected((host, port), number) for number in range(count)]
    for _ in sys.stdin:
        print("answered" if right(socks, name) else "not answered", flush=True)


if __name__ == "__main__":
    converse(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
