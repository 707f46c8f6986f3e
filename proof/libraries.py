"""Third-party libraries as handlers: does a session that is under way at a reload or a stop get its answer?

Law: the default settings, and the library's own client or a plain socket, while other clients come and go. Replies take
0.5, 1.5 and 3 seconds. A library that is not installed is left out, and that is printed. The exit status is 1 if a
session was lost.

    python proof/libraries.py                     # all that are installed
    python proof/libraries.py aiosmtpd paramiko   # some of them
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import library_clients as clients

from pronghorn.models.registry import pages
from pronghorn.testing.served import serving

LOOPS = ("asyncio", "uvloop", "epoll", "thread", "fork")
ADOPTED = ("asyncio", "uvloop", "epoll")  # one asyncio loop for all connections
FLOWS = ("thread", "pool", "fork", "prefork", "gevent")
SECONDS = (0.5, 0.5, 1.5, 1.5, 3.0)
LIBRARIES: dict[str, tuple[Callable[..., None], tuple[str, ...], str]] = {
    "aiosmtpd": (clients.smtp, LOOPS, "asyncio"),
    "aiohttp": (clients.http, LOOPS, "asyncio"),
    "uvicorn_h11": (clients.http, LOOPS, "asyncio"),
    "uvicorn_httptools": (clients.http, LOOPS, "asyncio"),
    "sanic": (clients.http, ("asyncio", "uvloop", "epoll"), "asyncio"),
    "grpclib": (clients.grpclib, LOOPS, "asyncio"),
    "websockets": (clients.websockets, ("asyncio", "uvloop", "epoll"), "asyncio"),
    "asyncssh": (clients.ssh, ("asyncio", "epoll"), "asyncio"),
    "aioftp": (clients.ftp, LOOPS, "auto"),
    "hypercorn": (clients.http, LOOPS, "asyncio"),
    "asyncua": (clients.opcua, ADOPTED, "auto"),
    "amqtt": (clients.mqtt, ADOPTED, "auto"),
    "pymodbus": (clients.modbus, ADOPTED, "auto"),
    "adopted_websockets": (clients.websockets, ADOPTED, "auto"),
    "adopted_aiohttp": (clients.http, ADOPTED, "auto"),
    "adopted_uvicorn": (clients.http, ADOPTED, "auto"),
    "adopted_hypercorn": (clients.http, ADOPTED, "auto"),
    "adopted_grpclib": (clients.grpclib, ADOPTED, "auto"),
    "adopted_asyncssh": (clients.ssh, ADOPTED, "auto"),
    "adopted_aioftp": (clients.ftp, ADOPTED, "auto"),
    "paramiko": (clients.ssh, FLOWS, "auto"),
    "rpyc": (clients.rpyc, FLOWS, "auto"),
    "wsgiref": (clients.http, FLOWS, "auto"),
    "http_server": (clients.http, FLOWS, "auto"),
    "xmlrpc": (clients.xmlrpc, FLOWS, "auto"),
    "dnslib": (clients.dns, FLOWS, "auto"),
    "pyftpdlib": (clients.ftp, FLOWS, "auto"),
}
STEADY = 3  # clients that come again and again meanwhile
BROKERS = ("adopted_", "hypercorn", "asyncua", "amqtt", "pymodbus")
HERE = Path(__file__).resolve().parent
NEEDS = {
    "asyncssh": ("asyncssh", "paramiko"),
    "http_server": (),
    "xmlrpc": (),
    "uvicorn_h11": ("uvicorn", "h11"),
    "uvicorn_httptools": ("uvicorn", "httptools"),
}


def was_refused(error: BaseException | None) -> bool:
    """Whether nobody listened any more: a stop does that to those who come late."""
    while error is not None and not isinstance(error, ConnectionRefusedError):
        error = error.__cause__ or error.__context__
    return error is not None


class Steady(threading.Thread):
    """Sessions one after the other, from before the reload until the server has stopped; `lost` are those that failed
    though somebody listened."""

    def __init__(self, ask: Callable[..., None], port: int) -> None:
        super().__init__(daemon=True)
        self.count, self.lost, self._over = 0, list[str](), threading.Event()
        self._call = lambda: ask(port, SECONDS[0], lambda: None)
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                self._call()
                self.count += 1
            except BaseException as error:
                if was_refused(error):
                    self._over.wait(0.1)
                else:
                    self.lost.append(f"under load: {type(error).__name__}: {error}")

    def end(self) -> None:
        self._over.set()
        self.join(40)


class Session(threading.Thread):
    """One client in a thread of its own."""

    def __init__(self, ask: Callable[..., None], port: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self.asked = threading.Event()
        self.fault = ""
        self._call = lambda: ask(port, seconds, self.asked.set)
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.fault = f"{type(error).__name__}: {error}"
        finally:
            self.asked.set()


def under_way(ask: Callable[..., None], server: Any, how: signal.Signals) -> list[str]:
    """Sessions that have asked when the signal comes, and those among them that are lost."""
    sessions = [Session(ask, server.address[1], seconds) for seconds in SECONDS]
    for session in sessions:
        session.asked.wait(30)
    time.sleep(0.2)  # the questions arrive
    server.send_signal(how)
    for session in sessions:
        session.join(40)
    return [session.fault or "it hangs" for session in sessions if session.fault or session.is_alive()]


def cell(library: str, model: str) -> tuple[int, list[str], str]:
    """Sessions, what the lost ones say, and what else was wrong."""
    ask, models, style = LIBRARIES[library]
    file = (
        "library_brokers"
        if library.startswith(BROKERS)
        else "library_blocking"
        if models is FLOWS
        else "library_handlers"
    )
    factory = f"{HERE / file}.py:{library}"
    with serving(factory, model=model, style=style, workers=8 if model == "prefork" else 1, drain_quiet=2.0) as server:
        steady = [Steady(ask, server.address[1]) for _ in range(STEADY)]
        lost = [f"reload: {each}" for each in under_way(ask, server, signal.SIGHUP)]
        end = time.monotonic() + 20
        while "Reloaded" not in server.log() and time.monotonic() < end:
            time.sleep(0.05)
        began = time.monotonic()
        lost += [f"stop: {each}" for each in under_way(ask, server, signal.SIGTERM)]
        status, seconds = server.wait(60), time.monotonic() - began
        for each in steady:
            each.end()
            lost += each.lost
    wrong = [line for line in server.log().splitlines() if "ERROR" in line or "Traceback" in line]
    return (
        2 * len(SECONDS) + sum(each.count for each in steady),
        lost,
        f"exit {status} after {seconds:.1f} s" + (f"; {wrong[0][:100]}" if wrong else ""),
    )


def missing(library: str) -> str:
    for module in NEEDS.get(library.removeprefix("adopted_"), (library.removeprefix("adopted_"),)):
        try:
            importlib.import_module(module)
        except ImportError:
            return f"{module} is not installed"
    return ""


def main(wanted: list[str]) -> int:
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    available = {page.name for page in pages() if page.missing() is None}
    cells = bad = 0
    for library, (_, models, _) in LIBRARIES.items():
        if wanted and library not in wanted:
            continue
        if why := missing(library):
            print(f"{library:18} left out: {why}", flush=True)
            continue
        for model in models:
            if model not in available:
                continue
            try:
                count, lost, how = cell(library, model)
            except Exception as error:
                count, lost, how = 0, [f"{type(error).__name__}: {error}"], "it could not be tried"
            cells, bad = cells + 1, bad + bool(lost)
            print(f"{library:18} {model:8} {count:3} sessions, {len(lost)} lost; {how}", flush=True)
            for each in lost[:2]:
                print(f"{'':18} {each[:160]}", flush=True)
    print(f"{cells} cells of library and model, {bad} with a loss")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
