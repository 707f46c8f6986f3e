"""The load client in Python, for TLS and where there is no C compiler: bare sockets over one epoll set.

Law: it loads any server that answers each message with the message in upper case, and knows nothing of what serves
it. Each connection keeps `--depth` messages in flight, so the server sets the pace. Every reply is checked, and
everything is bounded: by a count, by seconds, and by the patience with a server that says nothing.

    python benchmarks/load.py 127.0.0.1:8000 --seconds 2
    python benchmarks/load.py 127.0.0.1:8000 --per-connection --messages 1000
    python benchmarks/load.py 127.0.0.1:8000 --idle 5000

The result is one line of JSON on standard output; latencies are in microseconds. With `--paced` the client prints
`open` once its connections are open, and waits for a line on standard input before it sends and again before it
closes them: whoever measures the server then sees the messages alone.
"""

from __future__ import annotations

import argparse
import array
import errno
import json
import resource
import select
import socket
import ssl
import sys
import time

EPOLLIN, EPOLLOUT = select.EPOLLIN, select.EPOLLOUT
BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # Linux; Python names it since 3.12
READ = 65536  # a larger buffer is mapped and unmapped by malloc(3) for each call
PATIENCE = 10.0
PAUSE = 0.05
SOURCES = 250
BILLION = 1_000_000_000
Address = tuple[str, int]


class LoadFailed(Exception):
    """The server gave a wrong reply, none in time, or closed a connection."""


class Client:
    """One connection: its message, the reply that is right, and what is under way."""

    __slots__ = ("expected", "message", "partial", "sent_at", "socket", "unsent")

    def __init__(self, number: int, size: int, depth: int = 1) -> None:
        text = f"client {number} " + "the quick brown fox jumps over the lazy dog " * (size // 44 + 1)
        self.message = (text[: size - 1].encode() + b"\n") * depth
        self.expected = self.message.upper()
        self.partial = b""
        self.unsent = b""
        self.sent_at = 0
        self.socket = socket.socket()

    def connect(self, address: Address, source: int = 0) -> None:
        """Begin to connect; `source` spreads the ephemeral ports over the loopback network."""
        self.socket.setblocking(False)
        if source:
            self.socket.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            self.socket.bind((f"127.0.0.{source + 1}", 0))
        code = self.socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, f"cannot connect to {address}")

    def connected(self) -> None:
        """Raise what connecting came to, if it failed."""
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "cannot connect")

    def secure(self) -> None:
        """Hold the handshake, with any certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket.settimeout(PATIENCE)
        self.socket = context.wrap_socket(self.socket)
        self.socket.setblocking(False)

    def send(self, now: int) -> bool:
        """Send the message; False when a part of it must wait for room."""
        self.sent_at = now
        return self.flush(self.message)

    def flush(self, data: bytes) -> bool:
        try:
            count = self.socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            count = 0
        self.unsent = data[count:]
        return not self.unsent

    def read(self) -> bytes:
        """What is there; of TLS, all of it."""
        if not isinstance(self.socket, ssl.SSLSocket):
            return self.socket.recv(READ)
        data = b""
        try:
            while more := self.socket.recv(READ):
                data += more
        except ssl.SSLWantReadError:
            pass
        return data

    def receive(self) -> bool:
        """Read what is there; True when the whole reply is, and it is right. LoadFailed when it is wrong."""
        data = self.partial + self.read()
        if data == self.expected:
            self.partial = b""
            return True
        if len(data) == len(self.partial):
            if isinstance(self.socket, ssl.SSLSocket):
                return False  # a part of a record, or none of ours; a server that has left ends the patience
            raise LoadFailed("the server closed a connection that waited for its reply")
        if not self.expected.startswith(data):
            raise LoadFailed(f"wrong reply: {data[:80]!r} instead of {self.expected[:80]!r}")
        self.partial = data
        return False


class Tally:
    """Latencies in nanoseconds, and when the work began and ended."""

    __slots__ = ("began", "cpu", "ended", "latencies")

    def __init__(self) -> None:
        self.latencies = array.array("q")
        self.began = self.ended = time.perf_counter_ns()
        self.cpu = time.process_time()

    def result(self, depth: int = 1) -> dict[str, float | int]:
        cpu = time.process_time() - self.cpu
        ordered = sorted(self.latencies)
        count = len(ordered)
        return {
            "messages": count * depth,
            "seconds": (self.ended - self.began) / BILLION,
            "cpu": cpu,
            "p50": ordered[count // 2] / 1000,
            "p99": ordered[min(count - 1, count * 99 // 100)] / 1000,
        }


def open_all(address: Address, count: int, size: int, depth: int = 1, tls: bool = False) -> list[Client]:
    """`count` open connections, of which each sends `depth` messages at once."""
    clients = []
    for number in range(count):
        client = Client(number, size, depth)
        client.connect(address, 1 + number % SOURCES)
        poller = select.poll()
        poller.register(client.socket, select.POLLOUT)
        if not poller.poll(PATIENCE * 1000):
            raise LoadFailed(f"connection {number} did not open within {PATIENCE:g} s")
        client.connected()
        if tls:
            client.secure()
        clients.append(client)
    return clients


def exchange(clients: list[Client], messages: int, seconds: float, stay: bool = False) -> Tally:
    """Messages over open connections, one in flight on each, until `messages` are sent or `seconds` have passed.

    A server that serves a few connections at a time lets the others wait: when nothing moves after the end, those that
    have their reply are closed, so that the rest are served too, unless all are to `stay`.
    """
    with select.epoll() as poller:
        return _exchange(poller, clients, messages, seconds, stay)


def _exchange(poller: select.epoll, clients: list[Client], messages: int, seconds: float, stay: bool) -> Tally:
    tally, clock = Tally(), time.perf_counter_ns
    note = tally.latencies.append
    waiting = {client.socket.fileno(): client for client in clients}
    stop_at = tally.began + int(seconds * BILLION)
    left, owed, crowded = messages - len(clients), len(clients), False
    for descriptor, client in waiting.items():
        poller.register(descriptor, EPOLLIN if client.send(clock()) else EPOLLIN | EPOLLOUT)
    while owed:
        if crowded:
            for client in [client for client in waiting.values() if not client.sent_at]:
                del waiting[client.socket.fileno()]
                client.socket.close()
        events = poller.poll(PAUSE)
        if not events:
            now = clock()
            crowded = not stay and (crowded or left <= 0 or now >= stop_at)
            if now - tally.ended > PATIENCE * BILLION:
                raise LoadFailed(f"no reply within {PATIENCE:g} s; {owed} connections wait")
        for descriptor, mask in events:
            if descriptor not in waiting:
                continue
            client = waiting[descriptor]
            if mask & EPOLLOUT and client.flush(client.unsent):
                poller.modify(descriptor, EPOLLIN)
            if not mask & ~EPOLLOUT or not client.receive():
                continue
            now = tally.ended = clock()
            note(now - client.sent_at)
            if left > 0 and now < stop_at:
                left -= 1
                if not client.send(now):
                    poller.modify(descriptor, EPOLLIN | EPOLLOUT)
            else:
                owed -= 1
                client.sent_at = 0
    return tally


def visit(address: Address, connections: int, size: int, messages: int, seconds: float) -> Tally:
    """A connection per message: connect, send, read the reply, close; `connections` of them at any time."""
    tally, clock = Tally(), time.perf_counter_ns
    stop_at = tally.began + int(seconds * BILLION)
    open_ones: dict[int, Client] = {}
    number = 0
    with select.epoll() as poller:
        while True:
            while len(open_ones) < connections and number < messages and clock() < stop_at:
                client = Client(number, size)
                client.sent_at = clock()
                client.connect(address, 1 + number % SOURCES)
                open_ones[client.socket.fileno()] = client
                poller.register(client.socket, EPOLLOUT)
                number += 1
            if not open_ones:
                return tally
            events = poller.poll(PATIENCE)
            if not events:
                raise LoadFailed(f"no reply within {PATIENCE:g} s; {len(open_ones)} connections wait")
            for descriptor, mask in events:
                client = open_ones[descriptor]
                if not mask & EPOLLIN:
                    client.connected()
                    if client.flush(client.unsent or client.message):
                        poller.modify(descriptor, EPOLLIN)
                elif client.receive():
                    tally.ended = clock()
                    tally.latencies.append(tally.ended - client.sent_at)
                    del open_ones[descriptor]
                    client.socket.close()


def wait_for_line(paced: bool, word: str = "", seconds: float = 600.0) -> None:
    """Say `word` and wait for a line, or the end, of standard input, for `seconds` at most."""
    if not paced:
        return
    if word:
        print(word, flush=True)
    if select.select([sys.stdin], [], [], seconds)[0]:
        sys.stdin.readline()


def run(options: argparse.Namespace) -> None:
    host, _, port = options.address.rpartition(":")
    address = (host, int(port))
    if options.per_connection:
        tally = visit(address, options.connections, options.size, options.messages, options.seconds)
        print(json.dumps(tally.result()), flush=True)
        return
    count = options.idle or min(options.connections, options.messages)
    clients = open_all(address, count, options.size, options.depth, options.tls)
    if options.idle:  # one message each: the server has then accepted all of them
        tally = exchange(clients, count, PATIENCE, stay=True)
        print(json.dumps(tally.result()), flush=True)
        wait_for_line(True, seconds=options.seconds)
    else:
        wait_for_line(options.paced, "open")
        tally = exchange(clients, options.messages // options.depth, options.seconds)
        print(json.dumps(tally.result(options.depth)), flush=True)
        wait_for_line(options.paced)
    for client in clients:
        client.socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Load a server of the upper-case service, and check its replies.")
    parser.add_argument("address", help="HOST:PORT, IPv4")
    parser.add_argument("--connections", type=int, default=64, help="open at any time (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="bytes of a message, its newline included (%(default)s)")
    parser.add_argument("--depth", type=int, default=1, help="messages in flight on each connection (%(default)s)")
    parser.add_argument("--messages", type=int, default=10_000_000, help="stop after so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="stop after so long (%(default)s)")
    parser.add_argument("--per-connection", action="store_true", help="one message per connection")
    parser.add_argument("--idle", type=int, default=0, metavar="N", help="open N, one message each, then hold them")
    parser.add_argument("--tls", action="store_true", help="speak TLS, and take any certificate")
    parser.add_argument("--paced", action="store_true", help="wait for a line of standard input between the acts")
    options = parser.parse_args()
    if options.tls and options.per_connection:
        parser.error("--tls is for connections that stay")
    if min(options.connections, options.messages, options.size, options.depth) < 1 or options.idle < 0:
        parser.error("connections, messages, size and depth are at least 1")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        run(options)
    except (LoadFailed, OSError) as error:
        sys.exit(f"load: {error}")


if __name__ == "__main__":
    main()
