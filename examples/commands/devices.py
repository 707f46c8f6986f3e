"""Devices that are sent commands: each says who it is, and answers what it is asked, one line for one line.

    pronghorn serve examples/commands/devices.py:Device --workers 2 --name devices
    pronghorn ctl ask device:4711 'status?'        # in a shell; web.py does the same by HTTP

A device that comes back takes its name over from the connection that it had before.
"""

from collections import deque

import pronghorn
from pronghorn import bus


@pronghorn.message(pronghorn.lines)
class Device:
    def __init__(self, conn: pronghorn.MessageConnection[bytes]) -> None:
        self.conn = conn
        self.asked: deque[bus.Message] = deque()  # whose answers are to come, the oldest first

    def __call__(self, line: bytes) -> bytes | None:
        if line.startswith(b"I am "):
            self.conn.join(b"device:" + line.removeprefix(b"I am "), exclusive=True)
            return b"welcome"
        if self.asked:
            self.asked.popleft().reply(line)
        return None

    def on_bus(self, message: bus.Message) -> None:
        if message.asked:
            self.asked.append(message)
        self.conn.send(message.payload)
