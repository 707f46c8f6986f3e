"""A stop under steady load: whoever's connect(2) has succeeded is served; always over real processes."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import Launched, launched, wait_for
from pronghorn.errors import MissingExtra
from pronghorn.listening.binding import open_listeners
from pronghorn.listening.listener import Listener
from pronghorn.models.registry import load
from pronghorn.settings import Settings

CLIENTS = 6
linux = pytest.mark.skipif(sys.platform != "linux", reason="a filter on a listener is Linux's")


class Load:
    """Clients that come and go, one question each; `seen` counts how they fared."""

    def __init__(self, server: Launched) -> None:
        text = server.report["listening"][0]
        host, _, port = text.rpartition(":")
        self._family = socket.AF_UNIX if host == "unix" else socket.AF_INET6 if "[" in host else socket.AF_INET
        self._address = port if host == "unix" else (host.strip("[]"), int(port))
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._come_and_go) for _ in range(CLIENTS)]
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._over.set()
            for each in threads:
                each.join()

    def _come_and_go(self) -> None:
        while not self._over.is_set():
            with socket.socket(self._family) as sock:
                sock.settimeout(15)
                try:
                    sock.connect(self._address)
                except OSError:
                    outcome = "not connected"
                else:
                    outcome = self._ask(sock)
            with self._lock:
                self.seen[outcome] += 1
            if outcome == "not connected":
                return
            time.sleep(0.001)

    def _ask(self, sock: socket.socket) -> str:
        try:
            sock.sendall(b"x\n")
            return "served" if sock.recv(100) == b"X\n" else "an end"
        except OSError as error:
            return type(error).__name__


def stopped_under_load(folder: Path, model: str, bind: str, times: int = 1) -> None:
    for turn in range(times):
        (folder / str(turn)).mkdir()
        with launched(folder / str(turn), model=model, workers=2, bind=bind.format(folder)) as server:
            server.ready(2)
            load = Load(server)
            with load.running():
                wait_for(lambda load=load: load.seen["served"] >= 200, "some load")  # type: ignore[misc]
                assert server.stop() == 0, server.log
        del load.seen["served"], load.seen["not connected"]
        assert not load.seen, f"clients whose connect had succeeded met {dict(load.seen)}\n{server.log}"


@linux
@pytest.mark.parametrize(("model", "bind"), [("epoll", "127.0.0.1:0"), ("thread", "[::1]:0"), ("poll", "unix:{}/s")])
def test_a_stop_resets_nobody_who_had_connected(tmp_path: Path, model: str, bind: str) -> None:
    stopped_under_load(tmp_path, model, bind, times=2)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("model", ["fork", "uvloop"])
def test_so_where_others_accept(tmp_path: Path, model: str) -> None:
    try:
        load(model)
    except MissingExtra as error:
        pytest.skip(str(error))
    stopped_under_load(tmp_path, model, "127.0.0.1:0")


def opened(bind: str) -> Listener:
    (one,) = open_listeners(Settings(bind=(bind,)), lambda event: None)
    return one


def connected(listener: Listener) -> bool:
    with socket.socket(listener.family) as sock:
        sock.settimeout(0.2)
        _, address = listener.place
        try:
            sock.connect(address)
        except OSError:
            return False
        return True


def test_what_another_program_has_as_well_takes_clients() -> None:
    one = opened("127.0.0.1:0")
    other = Listener.adopt(one.inherited())
    try:
        assert other.turn_away() == 0.0
        one.hand_over()
        assert one.turn_away() == 0.0
        assert connected(one)
    finally:
        other._socket.detach()
        one.close()
