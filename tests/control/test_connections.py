"""`connections` and `kill-connection` of the control socket: real servers, under every model."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch import wait_for
from pronghorn.control import client
from pronghorn.errors import PronghornError
from pronghorn.testing.served import Served, serving
from tls_under_test import Authority

SECONDS = 10.0
DEVICE = "inquiries_under_test:device"


class Asked:
    """A server with a control socket of its own."""

    def __init__(self, server: Served, path: str) -> None:
        self.server, self.path = server, path

    def ask(self, command: str, **arguments: Any) -> Any:
        return client.ask(self.path, {"command": command, **arguments}, SECONDS)

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        """What all workers tell, each of which has answered in time."""
        told = wait_for(lambda: not (told := self.ask("connections", **query))["silent"] and told, "all answers")
        found: list[dict[str, Any]] = told["connections"]
        return found

    def kill(self, name: str, *others: str) -> None:
        """Has a connection ended by its id; `others` are none. On a busy machine the answer may be late: the connection
        is gone then, and its worker says so."""
        told = self.ask("kill-connection", ids=[name, *others])
        gone = {"ended": [], "gone": sorted([name, *others]), "late": [], "silent": []}
        if told["silent"]:
            wait_for(lambda: self.ask("kill-connection", ids=[name, *others]) == gone, "the end of the connection")
        else:
            assert told == {"ended": [name], "gone": [*others], "late": [], "silent": []}, told

    def connect(self) -> socket.socket:
        """A client that has said nothing."""
        return socket.create_connection(self.server.addresses[0], timeout=SECONDS)

    def greet(self, word: bytes = b"a\n") -> socket.socket:
        """A client that has been answered."""
        sock = self.connect()
        sock.sendall(word)
        assert sock.recv(100) == word
        return sock


@contextmanager
def asked(tmp_path: Path, handler: str = DEVICE, **settings: Any) -> Iterator[Asked]:
    path = str(tmp_path / "control")
    with serving(handler, control_socket=path, **settings) as server:
        yield Asked(server, path)


def name_of(sock: socket.socket) -> str:
    """The client's address, as a row tells it."""
    host, port = sock.getsockname()
    return f"{host}:{port}"


def ends(sock: socket.socket) -> bool:
    """Whether the client finds that the connection has ended."""
    try:
        return sock.recv(100) == b""
    except ConnectionError:
        return True


MODELS = [
    ("epoll", DEVICE),
    ("asyncio", "inquiries_under_test:streams"),
    ("thread", "inquiries_under_test:blocking"),
    ("iterative", DEVICE),
    ("fork", DEVICE),
    *(
        pytest.param(model, handler, marks=pytest.mark.slow)
        for model, handler in (
            ("gevent", "inquiries_under_test:blocking"),
            ("fork", "inquiries_under_test:streams"),
        )
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "handler"), MODELS)
def test_one_of_two_is_listed_and_ended(tmp_path: Path, model: str, handler: str) -> None:
    workers = 2 if model == "iterative" else 1
    with (
        asked(tmp_path, handler, model=model, workers=workers) as it,
        closing(it.greet()) as one,
        closing(it.greet(b"second\n")) as other,
    ):

        def told() -> list[dict[str, Any]] | bool:
            """Bytes are counted a moment after the send, and a child may answer too late."""
            found = it.rows()
            whole = all(row["tcp_state"] for row in found)
            return whole and sorted(row["bytes_out"] for row in found) == [2, 7] and found

        rows = {row["peer"]: row for row in wait_for(told)}  # type: ignore[union-attr]
        assert rows.keys() == {name_of(each) for each in (one, other)}
        row = rows[name_of(other)]
        assert (row["bytes_in"], row["bytes_out"], row["state"]) == (7, 7, "OPEN")
        assert row["id"].partition("-")[0] == str(row["pid"]) and row["age"] >= row["idle"] >= 0
        assert row["tcp_state"] == "ESTABLISHED" and row["send_queue"] == row["receive_queue"] == 0
        assert row["fields"] == ({"device": "second"} if handler == DEVICE else {})
        it.kill(row["id"], f"{row['pid']}-999")
        assert ends(other)
        one.sendall(b"still\n")
        assert one.recv(100) == b"still\n"
        wait_for(lambda: it.ask("status")["closed"]["operator"] == 1)
        wait_for(lambda: it.ask("kill-connection", ids=[row["id"]])["gone"] == [row["id"]])


@pytest.mark.slow
def test_a_child_tells_whom_its_proxy_speaks_for(tmp_path: Path) -> None:
    fork = {"model": "fork", "workers": 1, "proxy_from": ["127.0.0.1"]}
    with asked(tmp_path, "inquiries_under_test:blocking", **fork) as it, it.connect() as sock:
        (row,) = wait_for(lambda: it.rows(state="OPENING"))
        assert row["peer"] == name_of(sock)
        sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nx")
        assert sock.recv(100) == b"x"
        (row,) = wait_for(lambda: it.rows(peer=["192.0.2.7:4711"]))
        assert (row["peer"], row["proxy"]) == ("192.0.2.7:4711", name_of(sock))


def test_filters_and_order(one: Asked) -> None:
    wait_for(lambda: not one.rows())
    clients = [one.greet(b"%d\n" % number) for number in range(12)]
    peers = [name_of(each) for each in clients]
    clients[5].sendall(b"5\n" * 100)
    assert [row["peer"] for row in one.rows()] == peers
    assert [row["peer"] for row in one.rows(sort="age", reverse=True, limit=2)] == peers[:-3:-1]
    assert [row["fields"] for row in one.rows(fields={"device": "7"})] == [{"device": "7"}]
    wait_for(lambda: one.rows(sort="bytes", limit=1)[0]["peer"] == peers[5])
    assert one.rows(sort="rate", limit=1)[0]["peer"] == peers[5]
    trips = [row["rtt_us"] for row in wait_for(lambda: not any(row["send_queue"] for row in one.rows()) and one.rows())]
    found = [row["rtt_us"] for row in one.rows(sort="send_queue")]
    assert found == sorted(found, reverse=True) and len(found) == len(trips)
    assert one.ask("connections", limit=3)["matched"] == 12
    assert one.rows(peer=["127.0.0.0/8"], limit=12) and not one.rows(peer=["192.0.2.1", "::/0"])
    assert [row["peer"] for row in one.rows(peer=[peers[3]])] == [peers[3]]
    assert not one.rows(older=3600) and not one.rows(idle=3600) and not one.rows(state="CLOSING")
    first = one.rows(limit=1)[0]
    for name in ("worker", "pid"):
        assert {row["pid"] for row in one.rows(worker=first[name])} == {first["pid"]}
    for each in clients:
        each.close()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"sort": "colour"}, "no connections"),
        ({"limit": 0}, "no connections"),
        ({"limit": 10**9}, "no connections"),
        ({"peer": ["nobody"]}, "no connections"),
        ({"peer": "127.0.0.1"}, "no connections"),
        ({"fields": {"a": 1}}, "no connections"),
        ({"colour": "red"}, "no connections"),
        ({"older": -1}, "no connections"),
    ],
)
def test_what_is_no_question(one: Asked, request_: dict[str, Any], said: str) -> None:
    with pytest.raises(PronghornError, match=said):
        one.ask("connections", **request_)


@pytest.mark.parametrize("ids", [[], ["1"], ["1-2-3"], [7], ["-1-2"], "1-2", None, ["\u0661-1"], ["1-1"] * 2001])
def test_what_is_no_id(one: Asked, ids: object) -> None:
    with pytest.raises(PronghornError):
        one.ask("kill-connection", ids=ids)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with asked(tmp_path_factory.mktemp("one"), model="epoll", workers=2) as it:
        yield it


def test_a_client_whose_path_is_no_text_hides_nobody(tmp_path: Path) -> None:
    with (
        asked(tmp_path, model="epoll", workers=1, bind=f"unix:{tmp_path}/socket") as it,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.bind(bytes(tmp_path) + b"/\xff\x1b")
        sock.connect(f"{tmp_path}/socket")
        sock.sendall(b"a\n")
        assert sock.recv(100) == b"a\n"
        result = it.ask("connections")
        assert not result["silent"]
        assert [row["peer"].endswith("/\\udcff\\x1b") for row in result["connections"]] == [True]


def test_a_handlers_fields_are_bounded(one: Asked) -> None:
    with closing(one.greet(b"hostile\n")) as sock:
        (row,) = one.rows(peer=[name_of(sock)])
        assert len(row["fields"]) == 3 and "<Unspeakable>" in row["fields"].values()
        assert row["fields"]["path"] == "no text: \\udcff"
        assert all(len(name) <= 64 and len(value) <= 256 for name, value in row["fields"].items())


@pytest.mark.slow
def test_a_child_that_computes_is_told_of_and_killed(tmp_path: Path) -> None:
    with (
        asked(tmp_path, "inquiries_under_test:counting", model="fork", workers=1, log_level="debug") as it,
        closing(it.greet(b"quiet")) as quiet,
        closing(it.greet(b"count")) as busy,
    ):
        rows = wait_for(lambda: len(found := it.rows(idle=0.001)) == 1 and found)
        assert rows[0]["peer"] == name_of(quiet)

        def told() -> list[dict[str, Any]]:
            """From when on it computes: it has answered before."""
            return [row for row in it.rows() if row["peer"] == name_of(busy) and row["tcp_state"] is None]

        (row,) = wait_for(told)
        assert row["program"]
        it.kill(row["id"])
        assert ends(busy)
        wait_for(lambda: it.ask("status")["closed"]["operator"] == 1)
        wait_for(lambda: "operator after" in it.server.log())
        assert [row["peer"] for row in it.rows()] == [name_of(quiet)]


@pytest.mark.slow
def test_the_level_of_the_log_is_everybodys(tmp_path: Path) -> None:
    with asked(tmp_path, model="epoll", workers=1) as it:
        it.greet().close()
        assert it.ask("log-level", level="debug") == {"level": "debug", "before": "info"}
        it.greet().close()
        wait_for(lambda: "[DEBUG] received from" in it.server.log())
        assert it.server.log().count("received from") == 1
        (worker,) = it.ask("workers")["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: [each["state"] for each in it.ask("workers")["workers"] if each != worker] == ["SERVING"])
        it.greet().close()  # a later worker
        wait_for(lambda: it.server.log().count("received from") == 2)
        it.ask("reload")
        it.greet().close()
        wait_for(lambda: sum(it.ask("status")["closed"].values()) == 4)
        assert it.server.log().count("received from") == 2
        assert it.ask("stats")["totals"]["accepted"] == 4


@pytest.mark.parametrize("level", [None, "loud", 10])
def test_what_is_no_level(one: Asked, level: object) -> None:
    with pytest.raises(PronghornError, match="log-level takes a level"):
        one.ask("log-level", level=level)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["thread", "iterative"])
def test_a_worker_that_drains_answers(tmp_path: Path, model: str) -> None:
    with asked(tmp_path, "inquiries_under_test:sleeping", model=model, workers=1) as it, it.connect() as sock:
        sock.sendall(b"x")
        wait_for(lambda: sum(row["bytes_in"] for row in it.rows()))
        threading.Thread(target=it.ask, args=["drain"], daemon=True).start()
        (row,) = wait_for(lambda: (rows := it.rows()) and rows[0]["draining"] and rows)
        it.kill(row["id"])
        assert ends(sock)


@pytest.mark.slow
def test_a_silent_client_of_tls_is_listed_and_ended(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).sign("server")
    tls = {"tls_cert": certificate, "tls_key": key}
    with asked(tmp_path, "inquiries_under_test:blocking", model="thread", **tls) as it, it.connect() as sock:
        (row,) = wait_for(it.rows)
        assert (row["state"], row["tls"], row["peer"]) == ("OPENING", None, name_of(sock))
        it.kill(row["id"])
        assert ends(sock)


def in_time(one: Asked) -> dict[str, Any]:
    """What is told of the connections within a second (docs/control.md), or a few on a busy machine."""
    began = time.monotonic()
    told: dict[str, Any] = one.ask("connections")
    assert time.monotonic() - began < SECONDS / 2, "a worker that hangs has held up the answer"
    return told


@pytest.mark.slow
def test_a_worker_that_hangs_is_named_in_time(tmp_path: Path) -> None:
    with (
        asked(tmp_path, model="epoll", workers=2) as one,
        closing(one.greet()) as client_,
        closing(one.greet(b"x\n")) as other,
    ):
        pids = {row["pid"] for row in one.rows()}
        client_.sendall(b"block\n")
        result = wait_for(lambda: (told := in_time(one))["silent"] and told)
        assert pids.issuperset(each["pid"] for each in result["silent"])
        assert other.fileno() >= 0
        late = one.ask("kill-connection", ids=[f"{result['silent'][0]['pid']}-1"])
        assert late["late"] and not late["ended"]
