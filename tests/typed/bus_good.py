"""What both checkers take of the bus."""

import pronghorn
from pronghorn import bus


@pronghorn.message(pronghorn.lines)
class Device:
    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn
        conn.join("room")
        conn.join(b"device:1", exclusive=True)
        conn.join("device:2", exclusive="refuse")

    def __call__(self, line: bytes) -> bytes:
        return b"%d\n" % bus.publish("room", line, to="one")

    def on_bus(self, message: bus.Message) -> bytes | None:
        return message.payload if message.asked else None


def lists(client: bus.Client) -> int:
    return client.publish("room", b"hello", to="all") + sum(count for _, count in client.groups("room:", 10))
