"""What the bus costs: CPU of the whole process tree for a message to another worker, and for one to many connections.

Law: the two ways of a comparison take turns, each figure is the median of the rounds, and every message is read and
counted by the clients. "By hand" is a loop in the handler that sends to each connection of its own worker.

    python benchmarks/bus.py                    # both, for epoll (--models epoll,asyncio,thread chooses)
"""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import statistics
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing

from servers import PATIENCE, Contender, Server, pronghorn, serving

from pronghorn.bench.tree import settled

PAYLOAD = 64 + 1  # bytes of a message and its mark
TRIALS = 64  # connections that are opened at most until each worker has one


class Client:
    """A connection to the handler of bus_handler.py."""

    def __init__(self, server: Server) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        self.lines = self.sock.makefile("rb")

    def ask(self, line: str) -> str:
        self.sock.sendall(line.encode() + b"\n")
        return self.lines.readline().decode().strip()

    def close(self) -> None:
        self.lines.close()
        self.sock.close()


def take(clients: Iterable[Client], each: int) -> None:
    """Read so many bytes from each client."""
    rest = dict.fromkeys(clients, each)
    with selectors.DefaultSelector() as selector:
        for client in rest:
            selector.register(client.sock, selectors.EVENT_READ, client)
        while rest:
            for key, _ in selector.select(PATIENCE) or sys.exit("the messages did not come"):
                client = key.data
                rest[client] -= len(client.sock.recv(65536))
                if not rest[client]:
                    selector.unregister(client.sock)
                    del rest[client]


def cost(server: Server, call: Callable[[], None]) -> float:
    """Seconds of CPU that the server's tree spends on this call."""
    before = settled(server.pid)
    call()
    return settled(server.pid) - before


def to_another_worker(server: Server, rounds: int, messages: int) -> list[float]:
    """CPU µs for each message to one connection of another worker, of each round; its publisher waits for the count."""
    with ExitStack() as stack:
        publisher = stack.enter_context(closing(Client(server)))
        own, member = publisher.ask("pid"), publisher
        for _ in range(TRIALS):
            member = stack.enter_context(closing(Client(server)))
            if member.ask("pid") != own:
                break
        member.ask("join one")

        def publish() -> None:
            publisher.sock.sendall(f"publish {messages} one\n".encode())
            take([member], messages * PAYLOAD)
            if publisher.lines.readline() != b"1\n":
                sys.exit("a message did not reach its connection")

        publish()
        return [cost(server, publish) * 1e6 / messages for _ in range(rounds)]


def to_many(server: Server, rounds: int, messages: int, connections: int) -> list[tuple[float, float]]:
    """CPU µs for a message to each of so many connections of one worker, by the bus and by hand, of each round."""
    with ExitStack() as stack:
        members = [stack.enter_context(closing(Client(server))) for _ in range(connections)]
        for member in members:
            member.ask("join many")
        publisher = stack.enter_context(closing(Client(server)))

        def round_of(words: str) -> float:
            def call() -> None:
                if publisher.ask(words) != str(connections):
                    sys.exit("a message did not reach all")
                take(members, messages * PAYLOAD)

            return cost(server, call) * 1e6 / messages

        both = f"publish {messages} many", f"write {messages}"
        for words in both:
            round_of(words)
        return [(round_of(both[0]), round_of(both[1])) for _ in range(rounds)]


def contender(model: str, workers: int) -> Contender:
    return pronghorn(model, "--workers", str(workers), handler="bus_handler:Member")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the bus costs.")
    parser.add_argument("--models", default="epoll", help="models of Pronghorn, with commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=2000, help="to another worker, in a round (%(default)s)")
    parser.add_argument("--connections", type=int, default=1000, help="that one message comes to (%(default)s)")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for model in options.models.split(","):
        with serving(contender(model, 2)) as server:
            costs = to_another_worker(server, options.rounds, options.messages)
        told = f"{statistics.median(costs):.1f} µs ({min(costs):.1f}-{max(costs):.1f})"
        print(f"{model}: a message to one connection of another worker: {told}", flush=True)
        with serving(contender(model, 1)) as server:
            pairs = to_many(server, options.rounds, 20, options.connections)
        ratio = statistics.median(bus / hand for bus, hand in pairs)
        by_bus, by_hand = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(
            f"{model}: a message to {options.connections:,} connections of one worker: {by_bus:,.0f} µs,"
            f" by hand {by_hand:,.0f} µs: {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
