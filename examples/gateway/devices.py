"""The devices' side of a telematics gateway: login, heartbeats, positions that are acknowledged, and commands.

A message is two bytes of length, then kind (1 byte), number (4 bytes) and body. The device numbers its messages, the
gateway numbers its commands; the answer to either has the same number.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

from store import Store

import pronghorn

HEAD = struct.Struct(">BI")
PLACE = struct.Struct(">dd")
LOGIN, HEARTBEAT, POSITION, COMMAND = 1, 2, 3, 4
ANSWER = 0x80  # added to the kind

LOGIN_WITHIN = 10.0  # seconds
SILENT_FOR = 90.0  # seconds: devices send a heartbeat each 30
AGAIN_AFTER = 5.0  # seconds after which a command that was not answered is sent again
LOOK = 0.2  # seconds between two looks for new commands


class Gateway:
    """What one worker has: the store, the devices that are connected to it, and a thread that sends commands."""

    def __init__(self) -> None:
        self.store = Store()
        self.devices: dict[str, Device] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send_commands, name="commands")

    def __enter__(self) -> Gateway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.store.close()

    def _send_commands(self) -> None:
        while not self._over.wait(LOOK):
            devices = {name: each for name, each in dict(self.devices).items() if not each.conn.is_closing()}
            owners = [each.owner for each in devices.values()]
            for number, name, text in self.store.to_send(owners, AGAIN_AFTER):
                devices[name].conn.send(HEAD.pack(COMMAND, number) + text.encode())  # from any thread


def lifespan() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


@pronghorn.lifespan(lifespan)
@pronghorn.message(pronghorn.prefixed(2))
class Device:
    """One connection of one device."""

    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn
        self.gateway: Gateway = conn.lifespan
        self.name = self.owner = ""

    def connected(self) -> None:
        self.conn.call_later(LOGIN_WITHIN, self.expect_login)

    def expect_login(self) -> None:
        if not self.name:
            self.conn.log["refused"] = "no login"
            self.conn.close()

    def __call__(self, message: bytes) -> bytes | None:
        kind, number = HEAD.unpack_from(message)
        body = message[HEAD.size :]
        if kind == LOGIN and not self.name:
            self.log_in(body.decode("ascii"))
        elif not self.name:
            self.conn.log["refused"] = "no login"
            self.conn.close()
            return None
        elif kind == POSITION:
            self.gateway.store.add_position(self.name, number, *PLACE.unpack(body))
        elif kind == COMMAND | ANSWER:
            self.gateway.store.done(number, self.name)
            return None
        return HEAD.pack(kind | ANSWER, number)  # whatever came is safe now

    def log_in(self, name: str) -> None:
        before = self.gateway.devices.get(name)
        if before is not None:  # the device came anew, and its old connection hangs
            before.conn.close()
        self.name = self.conn.log["device"] = name
        self.conn.idle_timeout = SILENT_FOR
        self.register()

    def register(self) -> None:
        self.owner = f"{self.conn.worker.unique}-{self.conn.number}"
        self.gateway.devices[self.name] = self
        self.gateway.store.online(self.name, self.owner, str(self.conn.peer))

    def closed(self, reason: str) -> None:
        if self.gateway.devices.get(self.name) is self:
            del self.gateway.devices[self.name]
        self.gateway.store.offline(self.name, self.owner)

    def handed_over(self, conn: pronghorn.MessageConnection, state: object) -> None:
        """A reload has moved the connection to this worker: what `__init__` and `log_in` did elsewhere is done here."""
        if self.name:
            self.register()
        else:
            self.connected()
