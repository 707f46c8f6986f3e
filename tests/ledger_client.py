"""The clients' side of the ledger: attempts over one epoll set, each of which ends in exactly one outcome.

Law: a client knows the address and nothing else of the server. It trusts nothing: every reply's checksum, number and
running digest is compared with what it must be. Sources are spread over 127/8, so that ephemeral ports suffice. As a
process of its own (`python tests/ledger_client.py OPTIONS`, OPTIONS is JSON) it opens connections at a steady rate,
however the server fares, until its standard input ends; then it waits for what is open and writes one line for each
attempt.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import itertools
import json
import os
import random
import resource
import select
import socket
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

WORDS = "ok refused timeout-connect reset-before-byte reset-mid eof-early timeout corrupt duplicate"
OUTCOMES = tuple(WORDS.split())
COLUMNS = "name kind outcome local began ended asked replies pids versions note".split()
IP_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # Linux; Python names it since 3.12
IN, OUT = select.EPOLLIN, select.EPOLLOUT
CONNECT_PATIENCE = 3.0
MOST_OPEN = 4000
MOST_SECONDS = 1800.0
RESETS = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN}

# What an attempt does, in order: bytes are sent, a number is a pause in seconds, and two words.
ANSWERED = "answered"  # wait until all that was asked is answered
HOLD = "hold"  # wait for release()
Step = bytes | float | str


def script(kind: str, requests: list[bytes], dice: random.Random) -> list[Step]:
    """The steps of one kind of client, for these requests; what it still waits for at the end goes without saying."""
    everything = b"".join(requests)
    if kind == "whole":  # all at once, as soon as the connection is there
        return [everything]
    if kind == "split":  # half a request, a pause, the rest
        place = dice.choice([each for each in range(1, len(everything)) if everything[each - 1 : each] != b"\n"])
        return [everything[:place], dice.uniform(0.01, 0.03), everything[place:]]
    if kind == "late":  # connected for a while before the first byte
        return [dice.uniform(0.005, 0.05), everything]
    if kind == "talk":  # a request after each reply, with a pause between them
        steps: list[Step] = []
        for request in requests:
            steps += [request, ANSWERED, dice.uniform(0.005, 0.02)]
        return steps[:-2]
    if kind == "hold":  # one exchange, then half a request until release()
        half = len(requests[1]) // 2
        return [requests[0], ANSWERED, requests[1][:half], HOLD, b"".join([requests[1][half:], *requests[2:]])]
    if kind == "work":  # one exchange, then a request whose answer takes a while, and hold until release()
        return [requests[0], ANSWERED, b"".join(requests[1:]), HOLD]
    raise ValueError(kind)


class Attempt:
    """One client: its requests, the replies that are right, and how it ended."""

    __slots__ = (*COLUMNS, *"connected deadline expected got held resume said_all sock steps tail unsent".split())

    def __init__(self, name: str, kind: str, count: int, dice: random.Random, work: int) -> None:
        self.name, self.kind = name, kind
        self.outcome = self.local = self.note = ""
        self.began = self.ended = self.deadline = 0.0
        self.asked = self.replies = 0
        self.pids: list[int] = []
        self.versions: list[str] = []
        self.expected: list[bytes] = []
        digest, requests = hashlib.sha256(), []
        for number in range(count):
            wait = work if kind == "work" and number == 1 else 0
            words = b"%s %d %d %016x" % (name.encode(), number, wait, dice.getrandbits(64))
            line = b"%s %08x" % (words, zlib.crc32(words))
            digest.update(line)
            self.expected.append(digest.hexdigest()[:16].encode())
            requests.append(line + b"\n")
        self.steps = script(kind, requests, dice)
        self.unsent = self.tail = b""
        self.connected = self.held = self.said_all = False
        self.resume = 0.0  # when a pause is over; 0: none
        self.got = 0  # bytes
        self.sock: socket.socket = socket.socket()

    def row(self) -> str:
        """As one line of the ledger: the values of COLUMNS."""
        pids, versions = ",".join(map(str, self.pids)), ",".join(self.versions)
        who = (self.name, self.kind, self.outcome, self.local)
        when = (f"{self.began:.6f}", f"{self.ended:.6f}")
        return "\t".join(map(str, (*who, *when, self.asked, self.replies, pids, versions, self.note)))

    def read(self, data: bytes) -> str:
        """Compares what came with what must come; the outcome if that is an end, else nothing."""
        self.got += len(data)
        *lines, self.tail = (self.tail + data).split(b"\n")
        for line in lines:
            words, _, checksum = line.rpartition(b" ")
            parts = words.split()
            if checksum != b"%08x" % zlib.crc32(words) or len(parts) != 5 or parts[0] != self.name.encode():
                self.note = f"line {line[:60]!r}"
                return "corrupt"
            number = int(parts[1])
            if number < self.replies:
                return "duplicate"
            if number > self.replies or number >= len(self.expected) or parts[4] != self.expected[number]:
                self.note = f"reply {number} instead of {self.replies}, or a wrong digest"
                return "corrupt"
            self.replies += 1
            if (pid := int(parts[2])) not in self.pids:
                self.pids.append(pid)
            if (version := parts[3].decode()) not in self.versions:
                self.versions.append(version)
        return ""

    def at_end(self) -> str:
        """The outcome when the server's end arrives now."""
        if self.tail:
            self.note = f"half a reply: {self.tail[:60]!r}"
            return "corrupt"
        if self.replies == len(self.expected):
            return "ok"
        if self.replies and self.replies == self.asked and not self.unsent and self.kind == "talk":
            self.note = "goodbye"  # all that was asked is answered, and the server left between two requests
            return "ok"
        self.note = f"{self.asked - self.replies} unanswered"
        return "eof-early"


class Clients:
    """Attempts that are under way, and those that are over (`done`)."""

    def __init__(self, address: Any, seed: int = 1, sources: Sequence[int] = range(2, 250), patience: float = 8.0):
        self.address = address if isinstance(address, str) else tuple(address)
        self.done: list[Attempt] = []
        self.live: dict[int, Attempt] = {}
        self.dice = random.Random(seed)
        self._seed = seed
        self._patience = patience
        self._sources = itertools.cycle(sources)
        self._numbers = itertools.count(1)
        self._epoll = select.epoll()
        self._due: list[tuple[float, int, Attempt]] = []  # pauses and deadlines
        self._order = itertools.count()

    def open(self, kind: str = "whole", count: int = 0, work: int = 300) -> Attempt:
        """Begins one attempt, with so many requests (a few, if not told)."""
        count = count or self.dice.randint(2 if kind in ("hold", "work", "talk") else 1, 4)
        attempt = Attempt(f"{self._seed:x}.{next(self._numbers):x}", kind, count, self.dice, work)
        attempt.began = time.monotonic()
        self._wait_until(attempt, attempt.began + CONNECT_PATIENCE, deadline=True)
        sock = attempt.sock
        if isinstance(self.address, str):
            sock.close()
            sock = attempt.sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        if not isinstance(self.address, str):
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{next(self._sources)}", 0))
        code = sock.connect_ex(self.address)
        if code not in (0, errno.EINPROGRESS):
            self._lost(attempt, code)
        else:
            self.live[sock.fileno()] = attempt
            self._epoll.register(sock, OUT)
        return attempt

    def turn(self, seconds: float) -> None:
        """Lets things happen for so long at most; returns early when something did."""
        now = time.monotonic()
        if self._due:
            seconds = min(seconds, max(0.0, self._due[0][0] - now))
        for fd, mask in self._epoll.poll(seconds):
            attempt = self.live.get(fd)
            if attempt is None:
                continue
            try:
                self._happened(attempt, mask)
            except OSError as error:
                self._lost(attempt, error.errno or 0)
        self._fall_due()

    def run(self, until: Callable[[], object], seconds: float) -> None:
        """Turns until a condition holds; AssertionError when the time is over."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"{len(self.live)} clients are still under way after {seconds:g} s"
            self.turn(0.02)

    def finish(self, seconds: float = 60.0) -> list[Attempt]:
        """Waits until every attempt is over."""
        self.run(lambda: not self.live, seconds)
        return self.done

    def held(self) -> int:
        """How many wait for release()."""
        return sum(each.held for each in self.live.values())

    def release(self) -> None:
        for attempt in list(self.live.values()):
            if attempt.held:
                attempt.held = False
                try:
                    self._go_on(attempt)
                except OSError as error:
                    self._lost(attempt, error.errno or 0)

    def close(self) -> None:
        for attempt in self.live.values():
            attempt.sock.close()
        self._epoll.close()

    # What happens to one attempt.

    def _wait_until(self, attempt: Attempt, when: float, deadline: bool = False) -> None:
        if deadline:
            attempt.deadline = when
        heapq.heappush(self._due, (when, next(self._order), attempt))

    def _fall_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            attempt = heapq.heappop(self._due)[2]
            if attempt.outcome:
                continue
            if now >= attempt.deadline:
                self._over(attempt, "timeout" if attempt.connected else "timeout-connect")
            elif 0 < attempt.resume <= now:
                attempt.resume = 0.0
                try:
                    self._go_on(attempt)
                except OSError as error:
                    self._lost(attempt, error.errno or 0)

    def _happened(self, attempt: Attempt, mask: int) -> None:
        if not attempt.connected:
            code = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                return self._lost(attempt, code)
            attempt.connected = True
            name = attempt.sock.getsockname()
            attempt.local = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "-"
            self._epoll.modify(attempt.sock, IN)
            self._wait_until(attempt, time.monotonic() + self._patience, deadline=True)
            return self._go_on(attempt)
        if mask & ~OUT:
            data = attempt.sock.recv(65536)
            outcome = attempt.read(data) if data else attempt.at_end()
            if outcome:
                return self._over(attempt, outcome)
        if not (attempt.resume or attempt.held or attempt.said_all):
            self._go_on(attempt)
        return None

    def _go_on(self, attempt: Attempt) -> None:
        """The next steps, as far as they go now."""
        while True:
            if attempt.unsent:
                attempt.unsent = attempt.unsent[self._send(attempt) :]
                self._epoll.modify(attempt.sock, IN | OUT if attempt.unsent else IN)
                if attempt.unsent:
                    return
            if not attempt.steps:
                if attempt.replies == len(attempt.expected):
                    attempt.said_all = True
                    attempt.sock.shutdown(socket.SHUT_WR)  # and now the server's end
                return
            step = attempt.steps[0]
            if step == ANSWERED and attempt.replies < attempt.asked:
                return
            attempt.steps.pop(0)
            if isinstance(step, bytes):
                attempt.unsent = step
                attempt.asked += step.count(b"\n")
            elif isinstance(step, float):
                attempt.resume = time.monotonic() + step
                return self._wait_until(attempt, attempt.resume)
            elif step == HOLD:
                attempt.held = True
                return

    def _send(self, attempt: Attempt) -> int:
        try:
            return attempt.sock.send(attempt.unsent)
        except BlockingIOError:
            return 0

    def _lost(self, attempt: Attempt, code: int) -> None:
        attempt.note = errno.errorcode.get(code, str(code))
        if not attempt.connected and code == errno.ECONNREFUSED:
            self._over(attempt, "refused")
        elif code == errno.ETIMEDOUT:
            self._over(attempt, "timeout" if attempt.connected else "timeout-connect")
        elif code in RESETS or (isinstance(self.address, str) and code == errno.ENOENT):
            self._over(attempt, "reset-mid" if attempt.got else "reset-before-byte")
        else:
            raise OSError(code, f"the client itself cannot go on: {os.strerror(code)}")

    def _over(self, attempt: Attempt, outcome: str) -> None:
        attempt.outcome = outcome
        attempt.ended = time.monotonic()
        self.live.pop(attempt.sock.fileno(), None)
        attempt.sock.close()
        self.done.append(attempt)


def steady(
    clients: Clients, rate: float, kinds: dict[str, int], stop: Callable[[], bool], most: int = MOST_OPEN
) -> None:
    """Opens `rate` connections a second, of kinds in these shares, until `stop`; says `going` once one is over. While
    `most` are under way, those that are due are left out."""
    names, shares = list(kinds), list(kinds.values())
    began = time.monotonic()
    opened, going = 0, False
    while not stop() and time.monotonic() < began + MOST_SECONDS:
        due = int((time.monotonic() - began) * rate) - opened
        for _ in range(min(due, 50)):
            if len(clients.live) < most:
                clients.open(clients.dice.choices(names, shares)[0])
            opened += 1
        clients.turn(max(0.0, began + (opened + 1) / rate - time.monotonic()) if due <= 50 else 0.0)
        if clients.done and not going:
            going = True
            print("going", flush=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Clients(options["address"], options["seed"], options["sources"], options["patience"])
    poller = select.poll()
    poller.register(0, select.POLLIN)
    steady(clients, options["rate"], options["kinds"], lambda: bool(poller.poll(0)), options["most"])
    clients.finish(options["patience"] + CONNECT_PATIENCE + 5)
    with open(options["out"], "w") as file:
        file.writelines(each.row() + "\n" for each in clients.done)


if __name__ == "__main__":
    main()
