"""Trackers in a pen: each says who it is, sends where it is, and is told when another one comes or goes.

login NAME          then any line is a position, which is acknowledged by its number
"""

from __future__ import annotations

import threading

import pronghorn

LOGIN_WITHIN, SILENT_FOR, TICK = 10.0, 120.0, 60.0
here: dict[str, pronghorn.MessageConnection] = {}  # of this worker
lock = threading.Lock()  # under thread and pool handlers run at the same time


def tell_others(name: str, text: str) -> None:
    with lock:
        others = [conn for each, conn in here.items() if each != name]
    for conn in others:
        conn.send(text.encode())  # to another connection: safe under every model


@pronghorn.message(pronghorn.lines)
class Tracker:
    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn
        self.name = ""
        self.positions = 0

    def connected(self) -> None:
        self.login_timer = self.conn.call_later(LOGIN_WITHIN, self.conn.close)

    def __call__(self, line: bytes) -> bytes:
        if self.name:
            self.positions += 1
            return b"ack %d" % self.positions
        word, _, name = line.decode("utf-8", "replace").partition(" ")
        with lock:
            if word != "login" or not name or name in here:
                return b"login NAME, please; a name that nobody has"
            here[name] = self.conn
        self.login_timer.cancel()
        self.name = name
        self.conn.log["tracker"] = name
        self.conn.idle_timeout = SILENT_FOR
        self.conn.every(TICK, self.conn.send, b"tick")
        tell_others(name, f"{name} came")
        return b"welcome"

    def closed(self, reason: str) -> None:
        if self.name:
            with lock:
                del here[self.name]
            tell_others(self.name, f"{self.name} left: {reason}")


handler = Tracker
