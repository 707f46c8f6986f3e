"""The trials of the guards: peers that are slow, deaf, mute or too many, and a server that is short of something.

Law: as in ledger_trials.py: a trial gives a Result, and asserts nothing. Clients that behave keep the ledger meanwhile:
none of them may lose anything. Those that do not are held here, and each of their ends is timed.
"""

from __future__ import annotations

import math
import os
import random
import resource
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from launch import PATIENCE, Launched, launched
from ledger import Book, Row, ledger_server, load
from ledger_client import Clients
from ledger_reloads import spread
from ledger_sampler import status
from ledger_trials import Result, living, until
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.scoreboard.connection_limits import TOO_MANY, Limits
from pronghorn.scoreboard.sources import WIDTH
from pronghorn.settings import settle

HERE = Path(__file__).parent
GOOD_RATE = 50.0
HIGH_WATER_KIB = 64
EACH_KIB = HIGH_WATER_KIB + 64
SMALL = 4096
SLACK = 1.0  # seconds by which an end may be late where a tenth of the deadline is less


class Watched:
    """Connections whose ends are waited for, all at once; `ended` is after how many seconds each did."""

    def __init__(self, hears: bool = True) -> None:
        self.ended: list[float] = []
        self._poll = select.poll()
        self._events = select.POLLIN if hears else 0  # a reset is told to those too who want to hear nothing
        self._open: dict[int, tuple[socket.socket, float, bool]] = {}

    def add(self, sock: socket.socket, drips: bool = False) -> None:
        self._open[sock.fileno()] = (sock, time.monotonic(), drips)
        self._poll.register(sock, self._events)

    def wait(self, seconds: float) -> int:
        """Until all have ended, or the time is over; how many are left. Those that drip say a byte each second."""
        until = due = time.monotonic()
        until += seconds
        while self._open and (now := time.monotonic()) < until:
            if now >= due:
                due += 1.0
                self._drip()
            for fd, _ in self._poll.poll(20):
                self._look(fd)
        return len(self._open)

    def _drip(self) -> None:
        for sock, _, drips in self._open.values():
            if drips:
                try:
                    sock.send(b"x")
                except OSError:
                    pass  # its end is told by poll(2)

    def _look(self, fd: int) -> None:
        sock, began, _ = self._open[fd]
        if self._events:
            try:
                if sock.recv(65536):
                    return
            except OSError:
                pass
        self._poll.unregister(fd)
        del self._open[fd]
        self.ended.append(time.monotonic() - began)
        sock.close()

    def close(self) -> None:
        for sock, *_ in self._open.values():
            sock.close()


class Peak:
    """The most memory that a server's workers have had beyond what they had at first, in KiB."""

    def __init__(self, server: Launched) -> None:
        self._pids = living(server.pid)
        self._first = self._now()
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _now(self) -> int:
        return sum(status(pid, "VmRSS") for pid in self._pids)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, self._now() - self._first)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def in_time(
    result: Result, what: str, watched: Watched, left: int, deadline: float, share: float, late: float = 0.0
) -> None:
    """Each was cut at the deadline, by so large a share of it or a second; its end may be `late` on the way."""
    slack = max(SLACK, deadline * share) + late
    result.figures[f"{what} cut after"] = spread(watched.ended) if watched.ended else "none"
    result.expect(not left, f"{left} {what} were not cut")
    wrong = [round(each, 2) for each in watched.ended if not deadline - deadline * share <= each <= deadline + slack]
    result.expect_none(wrong, f"{what} cut after another time than {deadline:g} s")


def undisturbed(result: Result, book: Book) -> None:
    """Clients that behave lost nothing."""
    result.books(book)
    if book.rows:
        result.figures["good clients took"] = spread([each.ended - each.began for each in book.rows])
    result.expect_none(set(book.lost()) - set(book.crossed()), "good clients lost")
    result.expect(book.counts["ok"], "no good client was served")


@contextmanager
def held(server: Launched, count: int, receive_buffer: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(PATIENCE)
            sock.connect(server.address)
            socks.append(sock)
        yield socks


# R5: peers that do not read.


def deaf(
    folder: Path, count: int, model: str = "epoll", deadline: float = 2.0, handler: str = "", **settings: Any
) -> Result:
    """Peers that ask for 64 MiB and read nothing: memory stays bounded, and each is cut at the write deadline."""
    handler = handler or ("big_blocking" if model in ("thread", "fork", "pool", "gevent") else "Big")
    result = Result(f"R5 deaf peers, {model}")
    settings = {"workers": 1, "write_timeout": deadline, **settings}
    with launched(folder, f"{HERE / 'guard_handler.py'}:{handler}", model=model, **settings) as server:
        server.ready(1)
        with load(server, GOOD_RATE, processes=1) as clients, Peak(server) as peak, held(server, count, SMALL) as socks:
            watched = Watched(hears=False)
            for sock in socks:
                sock.sendall(b"BIG\n")
                watched.add(sock)
            left = watched.wait(deadline * 1.2 + 2 * SLACK)
            watched.close()
            book = clients.stop()
    in_time(result, "deaf peers", watched, left, deadline, 0.2)
    result.figures["memory grew by"] = f"{peak.most:,} KiB, {peak.most / count:.0f} KiB for each"
    result.expect(peak.most <= count * EACH_KIB, f"memory grew by {peak.most:,} KiB for {count} deaf peers")
    undisturbed(result, book)
    return result


# R6: peers that say too little.


def slow(folder: Path, count: int, model: str = "epoll", deadline: float = 3.0, **settings: Any) -> Result:
    """Half of them say a byte each second, half of them nothing: each is cut at its deadline."""
    result = Result(f"R6 slow peers, {model}")
    settings = {"workers": 1, "idle_timeout": deadline, "message_timeout": deadline, **settings}
    with ledger_server(folder, model=model, **settings) as server:
        server.ready(1)
        with load(server, GOOD_RATE, processes=1) as clients, held(server, 2 * count) as socks:
            mute, dripping = Watched(), Watched()
            for number, sock in enumerate(socks):
                (mute if number % 2 else dripping).add(sock, drips=not number % 2)
            wait = deadline * 1.1 + 2 * SLACK
            lefts: dict[str, int] = {}
            other = threading.Thread(target=lambda: lefts.update(mute=mute.wait(wait)))
            other.start()
            lefts["dripping"] = dripping.wait(wait)
            other.join()
            for each in (mute, dripping):
                each.close()
            book = clients.stop()
    in_time(result, "mute peers", mute, lefts["mute"], deadline, 0.1)
    in_time(result, "dripping peers", dripping, lefts["dripping"], deadline, 0.1)
    undisturbed(result, book)
    return result


# R8: a server that is short of something.


@contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """The process finds no number for one more, until the end of the block (prlimit(2))."""
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    lowest = next(each for each in range(len(used) + 1) if each not in used)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def no_descriptors(folder: Path, count: int, model: str = "epoll", **settings: Any) -> Result:
    """accept(2) fails for want of descriptors: who is served goes on, who comes is told by an end, nothing spins."""
    result = Result(f"R8 no descriptors, {model}")
    with ledger_server(folder, model=model, workers=1, **settings) as server:
        (pid,) = server.ready(1)
        return without_of(result, server, folder, pid, count)


Shortage = Callable[[int], AbstractContextManager[None]]


def without_of(
    result: Result, server: Launched, folder: Path, pid: int, count: int, shortage: Shortage = no_descriptor_left
) -> Result:
    """The same for a server that runs, whose only worker this is, and for another shortage."""
    clients, process = Clients(server.address), psutil.Process(pid)
    try:
        for _ in range(5):
            clients.open("hold", 3)
        clients.run(lambda: clients.held() == 5, 10)
        log = server.log.count("\n")
        worked, began = sum(process.cpu_times()[:2]), time.monotonic()
        with shortage(pid), held(server, count) as socks:
            watched = Watched()
            for sock in socks:
                watched.add(sock)
            left = watched.wait(3)
            watched.close()
            until(lambda: time.monotonic() > began + 2, 3)
            took, work = time.monotonic() - began, sum(process.cpu_times()[:2]) - worked
            lines = server.log.count("\n") - log
            clients.release()
            clients.run(lambda: not clients.held(), 5)
        first = clients.open("whole", 2)
        for _ in range(20):
            clients.open("whole", 2)
        book = Book([Row(each.row()) for each in clients.finish()], folder)
    finally:
        clients.close()
    again = first.ended - first.began
    result.figures |= {"processor": f"{work:.2f} s in {took:.1f} s", "lines of log": str(lines)}
    result.figures |= {"turned away": f"{count - left} of {count}", "back after": f"{again:.2f} s"}
    result.expect(not left, f"{left} who came were left to wait")
    result.expect(work <= 0.05 * took + 0.1, f"it took {work:.2f} s of processor time in {took:.1f} s")
    result.expect(lines <= 10, f"{lines} lines in the log")
    result.expect(first.outcome == "ok" and again <= 1.0, f"service came back after {again:.1f} s")
    result.expect(psutil.pid_exists(pid), "the worker did not live through it")
    result.expect_none(book.lost(), "clients lost")
    result.books(book)
    return result


def full_disk(folder: Path, seconds: float, **settings: Any) -> Result:
    """The log cannot be written (ENOSPC, from /dev/full): nobody who is served notices."""
    result = Result("R8 full disk")
    with ledger_server(folder, log_file="/dev/full", log_level="debug", workers=1, **settings) as server:
        with load(server, GOOD_RATE, processes=1) as clients:
            workers = living(server.pid)
            time.sleep(seconds)
            book = clients.stop()
        result.expect(workers == living(server.pid), "the workers are others")
        result.expect(server.stop() == 0, "the exit status is not 0")
    undisturbed(result, book)
    return result


PIDS = Path("/sys/fs/cgroup/pids")


def why_no_pids() -> str:
    """Why the number of processes cannot be limited here; empty if it can."""
    try:
        (PIDS / "pronghorn-try").mkdir()
        (PIDS / "pronghorn-try").rmdir()
    except OSError as error:
        return f"no control group of pids (version 1) can be made: {error.strerror}"
    return ""


@contextmanager
def no_process_left(pid: int) -> Iterator[None]:
    """The process cannot fork, until the end of the block (cgroups(7), pids)."""
    group = PIDS / f"pronghorn-{pid}"
    before = PIDS / Path(f"/proc/{pid}/cgroup").read_text().partition(":pids:/")[2].split("\n")[0]
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text("1")
        yield
    finally:
        (before / "cgroup.procs").write_text(str(pid))
        until(lambda: not (group / "cgroup.procs").read_text(), 5)
        group.rmdir()


def no_forks(folder: Path, count: int) -> Result:
    """fork(2) fails (EAGAIN): who comes is told by an end, nothing spins, and service comes back."""
    result = Result("R8 no processes", why_no_pids())
    if not result.skipped:
        with ledger_server(folder, model="fork", workers=1) as server:
            (pid,) = server.ready(1)
            without_of(result, server, folder, pid, count, no_process_left)
    return result


# R10: limits, to the very client.


@contextmanager
def limited(folder: Path, model: str, settings: dict[str, Any], **own: Any) -> Iterator[Launched]:
    """A server with `own` settings, unless `settings` has others."""
    settings = {"workers": 2, "pool_size": 1000, **own, **settings}
    with launched(folder, "upper", model=model, **settings) as server:
        server.ready(2)
        yield server


@contextmanager
def arrived(server: Launched, sources: list[str], says: bytes = b"a") -> Iterator[list[socket.socket]]:
    """A client from each of these addresses, who has said something."""
    with ExitStack() as stack:
        socks = []
        for source in sources:
            sock = stack.enter_context(socket.socket())
            sock.settimeout(PATIENCE)
            sock.bind((source, 0))
            sock.connect(server.address)
            sock.sendall(says)
            socks.append(sock)
        yield socks


def answered(socks: list[socket.socket]) -> int:
    """How many have an answer, and not an end; a reset raises, and so does silence."""
    return sum(sock.recv(1) != b"" for sock in socks)


def heard(socks: set[socket.socket]) -> set[socket.socket]:
    """Those to whom something was said already."""
    poll = select.poll()
    names = {sock.fileno(): sock for sock in socks}
    for fd in names:
        poll.register(fd, select.POLLIN)
    return {names[fd] for fd, _ in poll.poll(0)}


def limit_of_all(folder: Path, count: int, model: str = "epoll", **settings: Any) -> Result:
    """`count` at a time: not one more is served; the others wait, and for each that leaves one gets in."""
    result, most, over = Result(f"R10 all together, {model}"), 0, 10
    with (
        limited(folder, model, settings, max_connections=count) as server,
        arrived(server, ["127.0.0.1"] * (count + over)) as socks,
    ):
        inside, waiting = set[socket.socket](), set(socks)
        for turn in range(over + 1):
            until(lambda: len(inside | heard(waiting)) >= count, 15)  # noqa: B023
            time.sleep(0.3 if turn in (0, over // 2) else 0.02)  # whether one more gets in
            inside |= heard(waiting)
            waiting -= inside
            most = max(most, len(inside))
            result.expect(len(inside) == count, f"{len(inside)} are inside instead of {count}, after {turn} have left")
            if turn < over:
                inside.pop().close()
    result.figures["inside"] = f"{most} at most, of {count} who may"
    return result


def limit_of_sources(folder: Path, sources: int, model: str = "epoll", each: int = 3, **settings: Any) -> Result:
    """So many of each address of 127/8: each has exactly its number, twice: what was counted is taken back.

    The server's table is of fixed size, so where sources are many, a few share both of their places, and have less.
    """
    result = Result(f"R10 each source, {model}")
    places = [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(sources)] * (each + 2)
    sharing = sources * (sources / WIDTH) ** 2  # is to be expected
    share = math.ceil(each * (2 + 3 * sharing)) if sharing > 0.01 else 0
    with limited(folder, model, settings, max_connections_per_source=each, bind="0.0.0.0:0") as server:
        server.report["listening"] = [server.report["listening"][0].replace("0.0.0.0", "127.0.0.1")]
        for turn in range(2):
            with arrived(server, places) as socks:
                count = answered(socks)
            right = sources * each - share <= count <= sources * each
            result.expect(right, f"turn {turn}: {count} served instead of {sources * each}, {share} fewer at most")
            time.sleep(0.0 if turn else 0.5)
    result.figures["served"] = f"{count} of {len(places)} from {sources} sources, {each} of each, twice"
    return result


def false_sources(folder: Path, count: int) -> Result:
    """As many sources as a proxy may make up, counted by two workers: the table stays as large as it was, and who was
    at the limit before is at it still. The table is tried without sockets: nobody has a million addresses."""
    result, numbers, most = Result("R10 false sources"), random.Random(7), 50
    board = Scoreboard.create()
    settings = settle({"max_connections_per_source": most, "proxy_from": "10.0.0.1"})
    workers = [Limits(settings, board.take(slot, 1)) for slot in (1, 2)]
    known = ("192.0.2.1", 1)
    result.expect(not any(each.refusal_of_client(known) for each in workers for _ in range(most // 2)), "one refused")
    flood(workers, numbers, 2000)  # all that is ever needed has been taken now
    size, began = os.fstat(board.fileno()).st_blocks, time.monotonic()
    tracemalloc.start()  # what the system counts is no measure: what others have freed is used again
    refused = flood(workers, numbers, count)
    took, grew = time.monotonic() - began, tracemalloc.get_traced_memory()[0] // 1024
    tracemalloc.stop()
    table = (os.fstat(board.fileno()).st_blocks - size) // 2
    result.figures["memory grew by"] = f"{grew:,} KiB, the table by {table:,} KiB"
    result.figures["refused"] = f"{refused} of {count:,}, each counted and forgotten; {took:.0f} s"
    result.expect(grew <= 1024 and not table, f"memory grew by {grew:,} KiB, the table by {table:,} KiB")
    result.expect(all(each.refusal_of_client(known) == TOO_MANY for each in workers), "who was at the limit is no more")
    workers[0].left(known)
    result.expect(not workers[1].refusal_of_client(known), "who has a place again was refused")
    result.expect(refused <= 3, f"{refused} were refused for others")  # one of 16384 squared shares both places
    board.close()
    return result


def flood(workers: list[Limits], numbers: random.Random, count: int) -> int:
    """So many come from anywhere, and go; how many were refused."""
    refused = 0
    for number in range(count):
        peer = (socket.inet_ntop(socket.AF_INET6, numbers.randbytes(16)), 1)
        limits = workers[number % len(workers)]
        if limits.refusal_of_client(peer):
            refused += 1
        else:
            limits.left(peer)
    return refused


def limit_of_rate(folder: Path, rate: int, model: str = "epoll", **settings: Any) -> Result:
    """So many in a second: a bucket full at first, and what flows into it since."""
    result, workers = Result(f"R10 each second, {model}"), 2
    with limited(folder, model, settings, accept_rate=rate) as server:
        began = time.monotonic()
        with arrived(server, ["127.0.0.1"] * 4 * rate) as socks:
            count = answered(socks)
        took = time.monotonic() - began
    result.figures["served"] = f"{count} of {4 * rate} within {took:.2f} s, at {rate} in a second"
    fair = rate - 2 * workers <= count <= rate * (1 + took)
    result.expect(fair, f"{count} were served in {took:.2f} s at a rate of {rate}")
    return result


def limit_behind_proxies(folder: Path, sources: int, model: str = "epoll", **settings: Any) -> Result:
    """Clients are counted by whom a trusted proxy names, an IPv4-mapped one as what it is; nobody else is believed."""
    result, served = Result(f"R10 behind proxies, {model}"), 0
    forms = (b"PROXY TCP4 192.0.2.%d 192.0.2.1 5 6\r\na", b"PROXY TCP6 ::ffff:192.0.2.%d ::1 5 6\r\na")
    own: dict[str, Any] = {"proxy_from": "127.0.0.2", "max_connections_per_source": 2}
    with limited(folder, model, settings, **own) as server, ExitStack() as stack:
        for number in range(1, sources + 1):
            for form in (*forms, *forms):
                served += answered(stack.enter_context(arrived(server, ["127.0.0.2"], form % number)))
        result.expect(served == 2 * sources, f"{served} served for proxies instead of {2 * sources}")
        # A stranger who pretends to be many is one, and what it pretends is what it says.
        count = 0
        for number in range(1, 6):
            (sock,) = stack.enter_context(arrived(server, ["127.0.0.3"], forms[0] % (100 + number)))
            if got := sock.recv(5):
                result.expect(got.startswith(b"PROXY"), f"a stranger was believed: {got!r}")
                count += 1
        result.expect(count == 2, f"{count} connections of a stranger were served instead of 2")
    result.figures["served"] = f"{served} of {4 * sources} for {sources} clients of a proxy; {count} of 5 of a stranger"
    return result
