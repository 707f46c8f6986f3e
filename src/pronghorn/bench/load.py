"""A load process: many clients of a server in one loop over epoll(7), each reply checked, each latency counted.

Law: this process knows nothing of what serves, and imports next to nothing. It reads a job, a line of JSON, from its
standard input, opens the job's connections, and then runs for as long as each further line says, `{"run": seconds}`;
it writes a line of JSON for each (see `Load.opened` and `Load.run`) and ends at the end of its input. Times are
integers of nanoseconds on the monotonic clock. It ends too when its parent does.

Closed loop: a client sends when its reply is there, `depth` messages are under way on each connection. Open loop, with
a `rate`: messages are due at fixed times, whatever the server does; a latency counts from when its message was due,
and a message that no reply has come to counts with the time that has passed since then.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pronghorn.bench.latencies import Latencies
from pronghorn.bench.script import BadScript, Same, Talk, WrongReply, shown, talks
from pronghorn.bench.sockets import (
    AGAIN,
    CONNECTING,
    EPOLLIN,
    EPOLLOUT,
    Address,
    Poller,
    failure,
    is_connected,
    new_socket,
    place_of_address,
    wake_on_time,
)

BILLION = 1_000_000_000
LOOK = BILLION // 20  # between two looks at what is late
QUIET = BILLION // 4  # after the end: whoever has said nothing for so long is not waited for
AT_ONCE = 64  # connections that are opened at the same time
RETRY = BILLION // 10
READ = 65536  # less than what malloc(3) takes from the kernel, and gives back, for each call: that cost 10 µs a message
CLOSED = "closed early"


class Client:
    """One connection of a load process, or the place for one."""

    __slots__ = (
        "backlog",
        "fd",
        "flight",
        "number",
        "ready",
        "recv",
        "send",
        "served",
        "since",
        "sock",
        "talk",
        "unsent",
    )

    sock: socket.socket | None
    talk: Talk
    recv: Callable[[int], bytes]
    send: Callable[[bytes], int]

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock = None
        self.fd = -1
        self.flight: deque[int] = deque()  # from when each message under way counts
        self.backlog: deque[int] = deque()  # when each message was due that could not be sent yet
        self.unsent = b""
        self.ready = self.served = False
        self.since = 0


class Load:
    """The clients of one job: `address` ([host, port] or a path), `clients`, `first` (the number of the first of them),
    `depth`, `connect` (one connection per message), `rate` (messages a second; 0: closed loop), `phase` (0 to 1, of an
    interval), `timeout` (seconds), `sources` (how many addresses of 127.0.0.0/8 clients come from), `talk` (a Spec)."""

    def __init__(self, job: dict[str, Any], told: Callable[[dict[str, Any]], None]) -> None:
        self.address: Address = job["address"] if isinstance(job["address"], str) else tuple(job["address"])
        self.place = place_of_address(self.address)
        self.depth, self.connect = job.get("depth", 1), job.get("connect", False)
        self.rate, self.phase = job.get("rate", 0.0), job.get("phase", 0.0)
        self.timeout = int(job.get("timeout", 10.0) * BILLION)
        self.sources = job.get("sources", 0)
        self.talks = talks(job["talk"])
        self.clients = [Client(job.get("first", 0) + number) for number in range(job["clients"])]
        self.open_ones: dict[int, Client] = {}
        self.later: deque[tuple[int, Client]] = deque()
        self.poller = Poller()
        self.quick = self.depth == 1 and not self.connect and not self.rate
        self.told = told
        self.asking = False
        self.begin_tally()

    def begin_tally(self) -> None:
        self.latencies, self.late = Latencies(), Latencies()
        self.messages = self.in_time = self.unanswered = self.behind = 0
        self.errors: dict[str, list[Any]] = {}
        self.began = self.stopped = self.moved = self.looked = time.monotonic_ns()

    # Connections

    def opened(self) -> dict[str, Any]:
        """Opens all connections: `{"open": how many are, "errors": {kind: [count, an example]}}`. Those that cannot be
        opened are tried again while the load runs."""
        if self.connect:
            return {"open": 0, "errors": {}}
        waiting, until = deque(self.clients), time.monotonic_ns() + self.timeout
        while waiting or any(not client.ready for client in self.open_ones.values()):
            now = time.monotonic_ns()
            busy = sum(not client.ready for client in self.open_ones.values())
            while waiting and busy < AT_ONCE:
                self.begin(waiting.popleft(), now)
                busy += 1
            self.events(0.01)
            if now > until:
                break
        return {"open": sum(client.ready for client in self.clients), "errors": self.errors}

    def begin(self, client: Client, now: int) -> None:
        """Begins to connect; what is due is sent as soon as that can be."""
        client.flight.clear()
        client.unsent, client.ready, client.since = b"", False, now
        client.talk = self.talks(client.number)
        try:
            client.sock = sock = new_socket(self.address, client.number, self.sources)
            code = sock.connect_ex(self.place)
            if code in AGAIN and isinstance(self.address, str):  # the queue of a unix socket is full: unix(7)
                self.drop(client)
                self.later.append((now + LOOK, client))
                return
            if code and code not in CONNECTING:
                raise OSError(code, os.strerror(code))
        except OSError as error:
            self.failed(client, failure(error), str(error))
            return
        client.fd, client.recv, client.send = sock.fileno(), sock.recv, sock.send
        self.open_ones[client.fd] = client
        if self.connect and client.talk.greeted and self.asking:  # as a rule it is connected already, on one machine
            client.ready = True
            self.fill(client, now)
            if client.fd >= 0:
                self.poller.add(client.fd, EPOLLIN | EPOLLOUT if client.unsent else EPOLLIN)
        else:
            self.poller.add(client.fd, EPOLLIN | EPOLLOUT)

    def drop(self, client: Client) -> None:
        if client.fd >= 0:
            self.poller.remove(client.fd)
            del self.open_ones[client.fd]
            client.fd = -1
        if client.sock is not None:
            client.sock.close()
            client.sock = None
        client.ready = False

    def failed(self, client: Client, kind: str, detail: str) -> None:
        """Counts an error, by its kind and with the first example; the connection is tried again in a moment."""
        self.errors.setdefault(kind, [0, detail])[0] += 1
        self.drop(client)
        client.flight.clear()
        client.unsent = b""
        self.later.append((time.monotonic_ns() + RETRY, client))

    # Messages

    def fill(self, client: Client, now: int) -> None:
        """Sends what is due: in the closed loop as many messages as may be under way, in the open loop the backlog."""
        room = self.depth - len(client.flight)
        if self.rate:
            room = min(room, len(client.backlog))
            client.flight.extend(client.backlog.popleft() for _ in range(room))
        elif self.asking:
            client.flight.extend([now if not self.connect else client.since] * room)
        else:
            return
        if room > 0:
            self.transmit(client, client.unsent + client.talk.messages(room))

    def transmit(self, client: Client, data: bytes) -> None:
        had = client.unsent
        try:
            client.unsent = data[client.send(data) :]
        except BlockingIOError:
            client.unsent = data
        except OSError as error:
            self.failed(client, failure(error), str(error))
            return
        if bool(had) != bool(client.unsent) and not self.connect:
            self.poller.change(client.fd, EPOLLIN | EPOLLOUT if client.unsent else EPOLLIN)

    def events(self, seconds: float) -> None:
        for fd, mask in self.poller.wait(seconds):
            client = self.open_ones.get(fd)
            if client is None:
                continue
            if mask == EPOLLIN:
                self.readable(client)
            elif mask & EPOLLOUT and not mask & EPOLLIN:
                self.writable(client)
            else:
                self.readable(client)

    def writable(self, client: Client) -> None:
        assert client.sock is not None
        if not client.ready:
            if code := client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                error = OSError(code, os.strerror(code))
                self.failed(client, failure(error), str(error))
                return
            self.poller.change(client.fd, EPOLLIN)
            client.ready = client.talk.greeted
            self.moved = time.monotonic_ns()
            if client.ready and (self.connect or self.rate or self.asking):
                self.fill(client, self.moved)
        elif client.unsent:
            self.transmit(client, client.unsent)
        if self.connect and client.fd >= 0 and client.ready and not client.unsent:
            self.poller.change(client.fd, EPOLLIN)

    def readable(self, client: Client) -> None:
        """Takes what has come; what is whole is counted, and in the closed loop the next message goes out at once."""
        try:
            data = client.recv(READ)
        except BlockingIOError:
            return
        except OSError as error:
            self.failed(client, failure(error), str(error))
            return
        talk = client.talk
        if not (self.quick and self.asking and isinstance(talk, Same) and talk.is_reply(data) and client.flight):
            self.received(client, data)
            return
        now = self.moved = time.monotonic_ns()  # as `received` and `fill` do it, for the load that has most messages
        self.messages += 1
        self.latencies.note(now - client.flight[0])
        client.flight[0] = now
        client.served = True
        self.transmit(client, talk.message)

    def received(self, client: Client, data: bytes) -> None:
        flight = client.flight
        if not data:
            waits = f"{len(flight) or 'no'} {'reply was' if len(flight) < 2 else 'replies were'} waited for"
            self.failed(client, CLOSED, f"the server closed the connection; {waits}")
            return
        try:
            count = client.talk.take(data, len(flight))
        except WrongReply as error:
            self.failed(client, "wrong reply", str(error))
            return
        now = self.moved = time.monotonic_ns()
        if count:
            client.served = True
            self.messages += count
            note = self.latencies.note
            for _ in range(count):
                note(now - flight.popleft())
            if self.connect:
                self.again(client, now)
                return
            self.fill(client, now)
        elif not client.ready and client.talk.greeted:
            client.ready = True
            self.fill(client, now)

    def again(self, client: Client, now: int) -> None:
        """After the reply of a connection's only message: the next connection, where a message is due."""
        self.drop(client)
        if client.backlog or (self.asking and not self.rate):
            self.begin(client, now)

    # A run

    def run(self, seconds: float, patience: float = QUIET / BILLION) -> dict[str, Any]:
        """The load for so many seconds, until the last reply is there or nothing has moved for `patience` seconds.

        What is returned counts: `messages` that were answered, `in_time` within `seconds` (as measured), `latencies`
        and `late` (how late messages were sent that nothing held up but this process), `errors`, `unserved` clients
        that no reply has ever come to, `unanswered` messages of the open loop and how far `behind` it was at the end,
        the seconds of processor time, `cpu`, that this process used within `wall` seconds, and those that it waited for
        a processor, `waited` (0 where the kernel does not tell).
        """
        self.begin_tally()
        cpu, waited, began = time.process_time(), waited_for_processor(), self.began
        stop, sent, count = began + int(seconds * BILLION), 0, len(self.clients)
        interval = BILLION / self.rate if self.rate else 0.0
        first = began + interval * self.phase
        self.asking = True
        if not self.rate:
            for client in self.clients:
                if client.ready or (self.connect and client.sock is None):
                    self.fill(client, began) if client.ready else self.begin(client, began)
        while True:
            now = time.monotonic_ns()
            if now >= self.looked:
                self.look(now)
            due = float(stop)
            while self.asking and interval and (due := first + interval * sent) <= now and due < stop:
                self.send_due(self.clients[sent % count], int(due))
                sent += 1
            if self.asking and now >= stop:  # behind what was due: a pause over the end hides nothing
                self.stop_asking(now)
            if not self.asking and self.over(now, patience):
                break
            until = min(due, stop, self.looked) if self.asking else self.looked
            self.events(max(0.0, until - time.monotonic_ns()) / BILLION)
        used = {"cpu": time.process_time() - cpu, "waited": waited_for_processor() - waited}
        return {**self.result(time.monotonic_ns()), **used}

    def send_due(self, client: Client, due: int) -> None:
        free = not client.backlog and len(client.flight) < self.depth
        client.backlog.append(due)
        if self.connect and client.sock is None and free:
            now = time.monotonic_ns()
            self.late.note(now - due)
            self.begin(client, now)
        elif free and client.ready:
            self.late.note(time.monotonic_ns() - due)
            self.fill(client, due)

    def look(self, now: int) -> None:
        """Every 50 ms: messages that have waited too long, connections to try again, and whether the parent lives."""
        self.looked = now + LOOK
        late = now - self.timeout
        for client in list(self.open_ones.values()):
            if client.flight and client.flight[0] < late and client.since < late:
                self.failed(client, "timeout", self.missing(client, "reply"))
            elif not client.ready and client.since < late:
                greeted = client.talk.greeted or not is_connected(client.sock)
                what = "connection" if greeted else "greeting"
                self.failed(client, "connect timeout" if greeted else "no greeting", self.missing(client, what))
        for _ in range(len(self.later)):
            at, client = self.later.popleft()
            if at > now or not self.asking:
                self.later.append((at, client))
            elif client.sock is None:
                self.begin(client, now)
        if os.getppid() != PARENT:
            sys.exit(1)
        self.told({"progress": self.messages})

    def missing(self, client: Client, what: str) -> str:
        part = client.talk.part()
        return (
            f"no {what} within {self.timeout / BILLION:g} s" + bool(part) * f"; {shown(part)} came, which is not whole"
        )

    def stop_asking(self, now: int) -> None:
        """The end of the time: messages of the open loop that could not be sent count with the time they are late."""
        self.asking = False
        self.in_time = self.messages
        self.stopped = self.moved = now
        for client in self.clients:
            waiting = [*client.flight, *client.backlog]
            if self.rate and waiting:
                self.behind = max(self.behind, now - waiting[0])
            for due in client.backlog:
                self.latencies.note(now - due)
            self.unanswered += len(client.backlog)
            client.backlog.clear()

    def over(self, now: int, patience: float) -> bool:
        """Whether no reply is waited for any more; what an open loop has waited for in vain counts as it is late."""
        if now - self.moved < patience * BILLION and any(client.flight for client in self.open_ones.values()):
            return False
        for client in self.clients:
            if self.rate:
                for due in client.flight:
                    self.latencies.note(now - due)
                self.unanswered += len(client.flight)
                client.flight = deque([now] * len(client.flight))  # what is still to come counts for the next run
            if self.connect and client.sock is not None and client.flight:
                self.drop(client)
                client.flight.clear()
        return True

    def result(self, now: int) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "in_time": self.in_time,
            "seconds": (self.stopped - self.began) / BILLION,
            "latencies": self.latencies.plain(),
            "late": self.late.plain(),
            "errors": self.errors,
            "unserved": sum(not client.served for client in self.clients),
            "unanswered": self.unanswered,
            "behind": self.behind / BILLION,
            "wall": (now - self.began) / BILLION,
        }

    def close(self) -> None:
        for client in self.clients:
            self.drop(client)


PARENT = os.getppid()


def waited_for_processor() -> float:
    """Seconds that this process could have run, and others had the processors (Linux, /proc/self/schedstat)."""
    try:
        with open("/proc/self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / BILLION
    except (OSError, IndexError, ValueError):
        return 0.0


def tell(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Everything that goes wrong with the job is told as `{"error": text}`, and ends the process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        job = json.loads(sys.stdin.readline())
        load = Load(job, tell)
        if load.rate:
            wake_on_time()
        tell(load.opened())
        gc.disable()  # nothing here makes cycles, and a collection would be a latency
        while line := sys.stdin.readline():
            told = json.loads(line)
            tell(load.run(told["run"], told.get("patience", QUIET / BILLION)))
        load.close()
    except BadScript as error:
        tell({"error": str(error)})
        sys.exit(2)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)


if __name__ == "__main__":
    main()
