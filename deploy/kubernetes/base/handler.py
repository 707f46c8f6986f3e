"""Devices that say who they are, and take commands by the bus: replace it, or put yours into the image."""

import pronghorn


@pronghorn.message(pronghorn.lines)
class Device:
    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn

    def __call__(self, line: bytes) -> bytes:
        word, _, name = line.partition(b" ")
        if word != b"iam" or not name:
            return line.upper()
        self.conn.join(b"device:" + name, exclusive=True)
        return b"welcome"
