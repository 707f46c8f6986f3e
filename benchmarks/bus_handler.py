"""The handler of bus.py: connections join a name, and publish to it, by the bus or by hand."""

from __future__ import annotations

import os

import pronghorn
from pronghorn import bus

HERE: set[pronghorn.MessageConnection] = set()


@pronghorn.message(pronghorn.lines)
class Member:
    """`pid`; `join NAME`; `publish N NAME` and `write N`, to all of this worker by hand: replies with how many took the
    last of N messages."""

    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn

    def __call__(self, line: bytes) -> bytes:
        word, _, rest = line.partition(b" ")
        if word == b"join":
            self.conn.join(rest)
            HERE.add(self.conn)
        elif word == b"publish":
            number, _, name = rest.partition(b" ")
            payload, reached = b"x" * 64, 0
            for _ in range(int(number)):
                reached = bus.publish(name, payload)
            return b"%d" % reached
        elif word == b"write":
            payload = b"x" * 64
            for _ in range(int(rest)):
                for each in HERE:
                    each.send(payload)
            return b"%d" % len(HERE)
        return b"%d" % os.getpid()
