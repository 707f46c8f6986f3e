"""The trial of spread goodbyes: devices that stay connected, a reload, and when each of them came back.

Law: as of ledger_trials.py. The devices run in the caller's process, on one selector; each asks a question now and
then, and expects the answer before anything else. One that finds the server's end connects again at once, as a device
does. A reply is lost if half of it came; a question that crossed the goodbye is counted, and is no loss.
"""

from __future__ import annotations

import random
import selectors
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch import launched
from ledger_trials import Result
from pronghorn.settings.source import Source
from pronghorn.testing.tls import throw_away_pair

HANDLERS = str(Path(__file__).parent / "goodbyes_under_test.py")
KINDS = {
    "message": "message",
    "async message": "asyncio",
    "protocol": "protocol",
    "streams": "asyncio",
    "asyncio.Protocol": "asyncio",
    "blocking": "blocking",
    "socketserver": "blocking",
    "program": "program",
}
"""What is tried, and which style that is."""
STYLES = {
    "message": "message",
    "async message": "later",
    "protocol": "Callbacks",
    "streams": "streams",
    "asyncio.Protocol": "Push",
    "blocking": "blocking",
    "socketserver": "Request",
}


class Device:
    """One device, over all of its connections."""

    def __init__(self, number: int, devices: Devices) -> None:
        self.number, self.devices = number, devices
        self.asked = self.answered = self.crossed = 0
        self.buffer = b""
        self.connect()

    def connect(self) -> None:
        self.sock = self.devices.connected()
        self.sock.setblocking(False)
        self.buffer, self.asked = b"", self.answered
        self.devices.selector.register(self.sock, selectors.EVENT_READ, self)

    def ask(self) -> None:
        if self.asked == self.answered:
            self.asked += 1
            self.sock.send(b"%d %d\n" % (self.number, self.asked))

    def read(self, now: float) -> None:
        try:
            data = self.sock.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except ConnectionError as error:
            self.devices.faults.append(f"device {self.number}: {type(error).__name__}")
            data = b""
        if data:
            self.take(self.buffer + data)
            return
        devices = self.devices
        devices.goodbyes.append(now)
        if self.buffer:
            devices.faults.append(f"device {self.number}: half a reply, {self.buffer!r}")
        devices.crossed += self.asked != self.answered
        devices.selector.unregister(self.sock)
        self.sock.close()
        self.connect()

    def take(self, data: bytes) -> None:
        *lines, self.buffer = data.split(b"\n")
        for line in lines:
            self.answered += 1
            words = line.split()
            if [int(each) for each in words[:2]] != [self.number, self.answered]:
                self.devices.faults.append(f"device {self.number}: {line!r} instead of answer {self.answered}")
            self.devices.answers[int(words[2]) if len(words) > 2 else 0] += 1


class Devices:
    """Many of them: each asks every `pause` seconds. `connected` gives a connection."""

    def __init__(self, count: int, pause: float, connected: Callable[[], socket.socket]) -> None:
        self.selector = selectors.DefaultSelector()
        self.connected = connected
        self.goodbyes: list[float] = []
        self.faults: list[str] = []
        self.crossed = 0
        self.answers: Counter[int] = Counter()
        self.all = [Device(number, self) for number in range(count)]
        dice, now = random.Random(1), time.monotonic()
        self._pause = pause
        self._due = sorted((now + pause * dice.random(), number) for number in range(count))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and not until():
            while self._due and self._due[0][0] <= now:
                when, number = self._due.pop(0)
                self.all[number].ask()
                self._due.append((when + self._pause, number))
            for key, _ in self.selector.select(0.01):
                key.data.read(time.monotonic())

    def close(self) -> None:
        for each in self.all:
            each.sock.close()
        self.selector.close()


def sealed(sock: socket.socket) -> socket.socket:
    """A device's side of TLS, which trusts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(sock)


def histogram(instants: list[float], began: float, width: float = 1.0) -> list[int]:
    """How many of them fall into each second, or another width."""
    counts = Counter(int((each - began) / width) for each in instants)
    return [counts[each] for each in range(max(counts, default=-1) + 1)]


def spread(
    folder: Path,
    model: str,
    style: str = "message",
    count: int = 200,
    seconds: float = 4.0,
    pause: float = 1.0,
    begin: str = "reload",
    tls: bool = False,
    **settings: Any,
) -> Result:
    """`count` devices, and a reload (or an upgrade, or a stop) that says goodbye to them over so many seconds: no
    second of it has more than twice the even share, nobody lost a reply, and everybody came back."""
    result = Result(f"R21 {begin}, {style} under {model}" + ", TLS" * tls)
    source: str | Source = f"{HANDLERS}:{STYLES[style]}" if style in STYLES else Source(command=("cat",))
    settings = {"max_threads": 5000, "pool_size": count, "max_children": 2 * count, "backlog": 4096} | settings
    settings |= {"on_reload": "spread", "drain_spread": seconds, "drain_quiet": min(2.0, 0.4 * pause)}
    settings |= throw_away_pair(str(folder)) if tls else {}
    with launched(folder, source, model=model, **settings) as server:
        old = set(server.ready(settings.get("workers", 1)))
        devices = Devices(count, pause, lambda: sealed(server.connect()) if tls else server.connect())
        try:
            devices.run(1.5 * pause)
            began = time.monotonic()
            server.send({"reload": signal.SIGHUP, "upgrade": signal.SIGUSR2}[begin])
            devices.run(10.0, lambda: server.log.count("Saying goodbye") >= len(old) or bool(devices.goodbyes))
            devices.run(3 * seconds + 10, lambda: len(devices.goodbyes) >= count)
            devices.run(1.5 * pause)
        finally:
            devices.close()
        log = server.log
    width = min(1.0, seconds / 4)
    seen = histogram(devices.goodbyes, began, width)
    share = count * width / seconds
    result.figures["goodbyes in each second" if width == 1.0 else f"in each {width:g} s"] = " ".join(map(str, seen))
    result.figures["even share"] = f"{share:g}"
    result.figures["questions that crossed a goodbye"] = str(devices.crossed)
    result.expect_none(devices.faults, "replies lost")
    result.expect(len(devices.goodbyes) == count, f"{len(devices.goodbyes)} goodbyes to {count} devices: {log[-500:]}")
    result.expect(max(seen, default=0) <= 2 * share, f"{max(seen, default=0)} in one, an even share is {share:g}")
    return result


STAY = {
    "message": "stay_message",
    "async message": "stay_later",
    "protocol": "StayCallbacks",
    "streams": "stay_streams",
    "asyncio.Protocol": "StayPush",
    "blocking": "stay_blocking",
    "socketserver": "StayRequest",
}


def stays(folder: Path, model: str, style: str) -> Result:
    """A connection whose handler says stay(), and one whose handler does not, through a reload that spreads goodbyes:
    the first hears on until its client says so, the other is told goodbye."""
    result = Result(f"R21b stay, {style} under {model}")
    settings: dict[str, Any] = {"workers": 4, "on_reload": "spread", "drain_spread": 0.5, "drain_quiet": 0.05}
    with launched(folder, f"{HANDLERS}:{STAY[style]}", model=model, **settings) as server:
        server.ready(4)
        with server.connect() as staying, server.connect() as leaving:
            staying.sendall(b"stay\n")
            leaving.sendall(b"x\n")
            said = [staying.recv(100), leaving.recv(100)]
            server.send(signal.SIGHUP)
            result.expect(leaving.recv(100) == b"", "the one that does not stay was told no goodbye")
            time.sleep(1.0)
            for word in (b"still", b"here", b"quit"):
                staying.sendall(word + b"\n")
                said.append(staying.recv(100))
            result.expect(staying.recv(100) == b"", "the one that stays does not end when its client wants that")
    words = [each.split()[:1] for each in said]
    result.expect(words == [[b"stay"], [b"x"], [b"still"], [b"here"], [b"quit"]], f"it was said: {said}")
    result.expect(len({each.split()[-1] for each in (said[0], *said[2:]) if each}) == 1, f"one process served: {said}")
    return result
