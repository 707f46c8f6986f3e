"""The line over which a thread publishes and reads the result itself: what it does when its hub is slow, or gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pronghorn.bus.errors import BusLost, BusUnavailable
from pronghorn.bus.line import Line
from pronghorn.bus.link import Link
from pronghorn.bus.wire import HELLO, PUBLISH, REFUSED, RESULT, Reader, frame

WORDS = b"name", b"payload", False


class Ends:
    """The hub's ends of connections, the latest last."""

    def __init__(self) -> None:
        self.all: list[socket.socket] = []
        self.came = threading.Semaphore(0)

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        self.all.append(theirs)
        self.came.release()
        return ours

    def heard(self, number: int, count: int) -> list[Sequence[Any]]:
        """So many frames that came over this connection."""
        reader, found = Reader(), list[Sequence[Any]]()
        while len(found) < count:
            found += reader.feed(self.all[number].recv(65536))
        return found


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    for each in ends.all:
        each.close()


def later(call: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=call, args=args)
    thread.start()
    return thread


def test_a_result_is_read_by_the_thread_that_waits(ends: Ends) -> None:
    line, results = Line(ends.connect), list[Any]()
    asking = later(lambda: results.append(line.request(10, PUBLISH, *WORDS)))
    ends.came.acquire(timeout=10)
    hello, asked = ends.heard(0, 2)
    assert (hello[0], asked[0], asked[2:]) == (HELLO, PUBLISH, list(WORDS))
    assert line.request(10, PUBLISH, *WORDS) is None, "one thread at a time: the link is there for others"
    ends.all[0].sendall(frame(RESULT, asked[1], 3)[:5])
    ends.all[0].sendall(frame(RESULT, asked[1], 3)[5:])
    asking.join(10)
    assert results == [[3]]
    line.close()
    assert ends.all[0].recv(10) == b""


def test_a_result_that_comes_too_late_is_nobody_elses(ends: Ends) -> None:
    line = Line(ends.connect)
    with pytest.raises(BusLost, match=r"not answered in 0\.05 s"):
        line.request(0.05, PUBLISH, *WORDS)
    results = list[Any]()
    asking = later(lambda: results.append(line.request(10, PUBLISH, *WORDS)))
    for _ in range(2):
        ends.came.acquire(timeout=10)
    _, asked = ends.heard(1, 2)
    ends.all[1].sendall(frame(RESULT, asked[1] - 1, 7) + frame(RESULT, asked[1], 1))
    asking.join(10)
    assert results == [[1]]
    line.close()


@pytest.mark.parametrize(
    ("last", "error"), [(b"", BusLost), (b"\0\0\0\1\xc1", BusLost), (frame(REFUSED, "not you"), BusUnavailable)]
)
def test_a_hub_that_goes_away_or_refuses(ends: Ends, last: bytes, error: type[Exception]) -> None:
    def end() -> None:
        ends.came.acquire(timeout=10)
        ends.heard(0, 2)
        ends.all[0].sendall(last)
        ends.all[0].close()

    line, ending = Line(ends.connect), later(end)
    with pytest.raises(error):
        line.request(10, PUBLISH, *WORDS)
    ending.join(10)


def test_what_cannot_be_sent_goes_the_other_way(ends: Ends) -> None:
    """Nothing has been sent then, so that the link sends it, and nothing twice."""
    line = Line(ends.connect)
    line._open()
    ends.all[0].close()
    assert line.request(10, PUBLISH, *WORDS) is None, "that connection has ended"

    def refuse() -> socket.socket:
        raise BusUnavailable("no hub")

    assert Line(refuse).request(10, PUBLISH, *WORDS) is None
    for seconds in (0.0, -1.0, 1e9, float("inf"), float("nan")):
        assert line.request(seconds, PUBLISH, *WORDS) is None
    assert len(ends.all) == 1


def test_what_was_sent_before_is_there_before(ends: Ends) -> None:
    """A publication over the line does not overtake what went over the link and has no result yet."""
    link = Link(ends.connect, lambda: (), lambda fields: None)
    ends.came.acquire(timeout=10)
    waiter: Any = type("Waiter", (), {"set": lambda self, result: None})()
    number = link.begin(waiter, time.monotonic() + 10, PUBLISH, b"name", b"first", False)
    asking = later(link.request, 10, PUBLISH, b"name", b"second", False)
    _, first, second = ends.heard(0, 3)
    assert (first[1], first[3], second[3]) == (number, b"first", b"second")
    assert len(ends.all) == 1, "there is no line yet"
    ends.all[0].sendall(frame(RESULT, first[1], 1) + frame(RESULT, second[1], 1))
    asking.join(10)
    asking = later(link.request, 10, PUBLISH, b"name", b"third", False)
    assert ends.came.acquire(timeout=10)
    _, third = ends.heard(1, 2)
    assert third[3] == b"third"
    ends.all[1].sendall(frame(RESULT, third[1], 1))
    asking.join(10)
    link.close()
