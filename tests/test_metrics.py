"""A handler's own metrics: declared, counted in this process, and summed over the workers of a server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from boards import board_of, details_of
from launch import Launched, launched_code, wait_for
from pronghorn import metrics
from pronghorn.connection.base import fields_as_text
from pronghorn.scoreboard import details
from pronghorn.scoreboard.details import DURATION, SERVICE
from pronghorn.scoreboard.own_metrics import OwnReader

CODE = """
import os, signal, time
import pronghorn
from pronghorn import metrics

lines = metrics.counter("lines_total", "Lines that came.", labels=("kind",))
open_now = metrics.gauge("lines_open", "Lines in hand.")
sizes = metrics.histogram("line_bytes", "How long lines are.", buckets=(2, 8))

@pronghorn.message(pronghorn.lines)
def handler(line):
    lines.labels(line.decode()).inc()
    open_now.inc()
    sizes.observe(len(line))
    if line == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    return line.upper()
"""
BLOCKING = """
from pronghorn import metrics

lines = metrics.counter("lines_total", "Lines that came.", labels=("kind",))

def handler(conn):
    for line in conn.makefile("rb"):
        lines.labels(line.decode().strip()).inc()
        conn.sendall(line.upper())
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No metric of a test is known to another."""
    declared = dict(metrics._declared)
    yield
    metrics._declared.clear()
    metrics._declared.update(declared)
    metrics.detach()


def own(server: Launched) -> dict[str, list[float]]:
    """What all regions of a server have of each series."""
    board, sums = board_of(server), dict[str, list[float]]()
    for index in (0, *board.taken()):
        found = OwnReader().read(board.fileno(), index)
        for metric, labels, values in found.series if found is not None else ():
            before = sums.setdefault(metric.name + "".join(f"/{each}" for each in labels), [0.0] * len(values))
            sums[metric.name + "".join(f"/{each}" for each in labels)] = [
                one + two for one, two in zip(before, values, strict=True)
            ]
    return sums


# Without a server.


def test_counting_in_this_process() -> None:
    orders = metrics.counter("orders", "Orders.", labels=("kind", "code"))
    orders.labels("new", 404).inc()
    orders.labels(code="404", kind="new").inc(1.5)
    assert orders.labels("new", "404").value == 2.5
    assert orders.labels("new", 404) is orders.labels("new", "404")
    load = metrics.gauge("load", "Load.")
    load.set(3)
    load.inc()
    load.dec(2)
    assert load.value == 2.0
    sizes = metrics.histogram("sizes", "Sizes.", buckets=(1, 10))
    for value in (1, 2, 100):
        sizes.observe(value)
    assert (sizes.count, sizes.sum) == (3, 103.0)
    waits = metrics.histogram("waits_seconds", "Waits.", labels=("who",), buckets=(0.1, 1, float("inf")))
    with pytest.raises(KeyError), waits.labels("me\udcff").time():
        raise KeyError
    assert waits.labels("me\udcff").count == 1 and 0 <= waits.labels("me\udcff").sum < 60


def test_a_decorator_times_each_call() -> None:
    took = metrics.histogram("took_seconds", "Took.", buckets=(0.005, 60))

    @took.time()
    def count_down(number: int) -> int:
        return number and count_down(number - 1)

    @took.time()
    async def waits(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert count_down(2) == 0 and took.count == 3
    before = took.sum
    assert asyncio.run(waits(0.01)) == 0.01
    assert took.count == 4 and took.sum - before >= 0.009


def test_declared_twice_it_is_the_same() -> None:
    assert metrics.counter("twice", "Twice.") is metrics.counter("twice_total", "Twice.")
    with pytest.raises(ValueError, match=r"declared already, with the help 'Twice.': .*test_metrics.py:\d+$"):
        metrics.counter("twice", "Another.")
    with pytest.raises(ValueError, match=r"declared already, without labels: .*test_metrics.py:\d+$"):
        metrics.counter("twice", "Twice.", labels=("kind",))
    metrics.gauge("once", "Once.")
    with pytest.raises(ValueError, match="declared already, as a gauge: "):
        metrics.histogram("once", "Once.")


@pytest.mark.parametrize(
    ("name", "labels", "why"),
    [
        ("9lives", (), "no name"),
        ("a-b", (), "no name"),
        ("pronghorn_mine", (), "as the server's own"),
        ("fine", ("__name",), "no name of a label"),
        ("fine", ("a", "a"), "labels twice"),
        ("fine", ("a b",), "no name of a label"),
        ("fine", "kind", "tuple of names"),
    ],
)
def test_names_that_cannot_be_exported(name: str, labels: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        metrics.counter(name, "Wrong.", labels)


def test_wrong_use_is_told() -> None:
    orders = metrics.counter("orders", "Orders.", labels=("kind",))
    for wrong in (orders.inc, orders.labels, lambda: orders.labels("a", "b"), lambda: orders.labels(sort="a")):
        with pytest.raises(TypeError):
            wrong()
    for amount in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="only grows"):
            orders.labels("a").inc(amount)
    with pytest.raises(ValueError, match="ascending"):
        metrics.histogram("sizes", "Sizes.", buckets=(2, 1))
    for name in ("orders_total", "orders_bucket", "orders_info"):
        with pytest.raises(ValueError, match="another kind"):
            metrics.gauge(name, "A name of a counter.")
    with pytest.raises(ValueError, match="across"):
        metrics.gauge("load", "Load.", across="last")
    with pytest.raises(TypeError, match=r"pronghorn\.metrics\.counter\('orders'"):
        metrics.Counter("orders", "As prometheus_client has it.")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"orders_total has labels: count by \.labels\(kind\)"):
        orders.inc()
    with pytest.raises(TypeError, match=r"labels: kind; got 'a', 'b'"):
        orders.labels("a", "b")


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"new", "new"),
        (bytearray(b"caf\xc3\xa9"), "caf\xe9"),
        (b"\xff", "\\xff"),
        (3, "3"),
        (Unspeakable(), "<Unspeakable>"),
    ],
)
def test_what_a_handler_has_at_hand_is_told_as_the_same_text_by_metrics_and_fields(value: object, text: str) -> None:
    orders = metrics.counter("orders", "Orders.", labels=("kind",))
    orders.labels(value).inc()
    assert orders.labels(text).value == 1
    assert fields_as_text({"kind": value}) == (("kind", text),)


def test_threads_lose_nothing() -> None:
    hits = metrics.counter("hits", "Hits.")

    def work() -> None:
        for _ in range(20_000):
            hits.inc()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert hits.value == 80_000


# With one.


@pytest.mark.slow
@pytest.mark.parametrize("model", ["epoll", "fork"])
def test_workers_and_children_that_die_take_nothing_with_them(model: str, tmp_path: Path) -> None:
    settings = {"model": model, "workers": 2, "statsd": "127.0.0.1:9"}
    with launched_code(tmp_path, CODE, **settings) as server:
        server.ready(2)
        for _ in range(6):
            with server.connect() as client:
                client.sendall(b"one\nlonger than that\n")
                assert client.recv(100)
        wait_for(lambda: details_of(server).histogram(DURATION).count == 6)
        with server.connect() as client:
            client.sendall(b"die\n")
            client.recv(100)
        wait_for(lambda: own(server).get("lines_total/die") == [1.0])
        # A worker that is killed loses the last second, in which it has not written down the end of a child either.
        wait_for(lambda: details_of(server).histogram(DURATION).count == 6 + (model == "fork"))
        server.ready(2)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: board_of(server).totals()["open"] == 0)
        wait_for(lambda: len(server.ready(2)) == 2)
        server.send(signal.SIGHUP)
        wait_for(lambda: details_of(server)["reload_done"] == 1 and details_of(server)["exit_signal"] >= 2)
        told = {"lines_total/one": [6.0], "lines_total/longer than that": [6.0], "line_bytes": [0.0, 7.0, 6.0, 117.0]}
        wait_for(lambda: told.items() <= own(server).items())
        assert details_of(server).histogram(DURATION).count == 6 + (model == "fork")
        assert details_of(server).histogram(SERVICE).count >= 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gevent", "prefork"])
def test_blocking_handlers_count(model: str, tmp_path: Path) -> None:
    if model == "gevent":
        pytest.importorskip("gevent")
    with launched_code(tmp_path, BLOCKING, model=model, workers=1) as server:
        for _ in range(5):
            assert server.ask(b"one\ntwo\n") == b"ONE\nTWO\n"
        wait_for(lambda: own(server) == {"lines_total/one": [5.0], "lines_total/two": [5.0]})
        assert details.read(board_of(server).fileno(), board_of(server).taken()[0]).histogram(DURATION).count == 0
