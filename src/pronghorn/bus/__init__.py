"""The bus: any connection is reached from anywhere, by a name that it has joined.

    class Device:
        def __init__(self, conn):
            self.conn = conn
        def __call__(self, line):
            self.conn.join(b"device:" + line, exclusive=True)

    pronghorn.bus.publish("device:4711", b"reboot")        # in any worker: how many connections it reached
    answer = pronghorn.bus.ask("device:4711", b"status?")  # the handler's on_bus answers

Law: what is published is delivered at most once. Nothing is kept for connections that are not there, or not there yet;
the publisher is told how many have taken the message, and an asker why there is no answer. What one publisher sends to
one name arrives in its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pronghorn import on_first_use

if TYPE_CHECKING:
    from pronghorn.bus.calls import aask as aask
    from pronghorn.bus.calls import apublish as apublish
    from pronghorn.bus.calls import ask as ask
    from pronghorn.bus.calls import join as join
    from pronghorn.bus.calls import leave as leave
    from pronghorn.bus.calls import publish as publish
    from pronghorn.bus.client import AsyncClient as AsyncClient
    from pronghorn.bus.client import Client as Client
    from pronghorn.bus.client import aconnect as aconnect
    from pronghorn.bus.client import connect as connect
    from pronghorn.bus.errors import BadBusMessage as BadBusMessage
    from pronghorn.bus.errors import BusError as BusError
    from pronghorn.bus.errors import BusLost as BusLost
    from pronghorn.bus.errors import BusUnavailable as BusUnavailable
    from pronghorn.bus.errors import CannotAnswer as CannotAnswer
    from pronghorn.bus.errors import NameTaken as NameTaken
    from pronghorn.bus.errors import NoAnswer as NoAnswer
    from pronghorn.bus.errors import NobodyThere as NobodyThere
    from pronghorn.bus.errors import OtherHostsUnreached as OtherHostsUnreached
    from pronghorn.bus.members import Message as Message
else:
    __getattr__, __dir__ = on_first_use(
        globals(),
        {
            "calls": "aask apublish ask join leave publish",
            "client": "AsyncClient Client aconnect connect",
            "errors": "BadBusMessage BusError BusLost BusUnavailable CannotAnswer NameTaken NoAnswer NobodyThere "
            "OtherHostsUnreached",
            "members": "Message",
        },
    )
