"""When the first byte was sent over a blocking connection: noted by a class that the connection has until then.

Law: a handler sends by itself, over a plain socket, and nobody hears of it. So a connection that is to note its first
byte begins as one of a class whose sending calls do so, and is an ordinary one from then on: later calls cost nothing
more. What a program sends is not heard of. A channel has another way (channel.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from pronghorn.connection.blocking import Connection

if TYPE_CHECKING:
    Base = Connection
else:
    Base = object


class FirstByte(Base):
    """The sending calls of a connection that has sent nothing yet; a mixin."""

    __slots__ = ()
    ordinary: ClassVar[type[Any]]

    def send(self, *args: Any) -> int:
        sent: int = super().send(*args)
        self._note()
        return sent

    def sendmsg(self, *args: Any) -> int:
        sent: int = super().sendmsg(*args)
        self._note()
        return sent

    def sendall(self, *args: Any) -> None:
        self._note()  # before: what is much is taken by and by; from here on the class is another
        return self.sendall(*args)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        self._note()
        return self.sendfile(*args, **kwargs)

    def _note(self) -> None:
        self.first_sent = time.monotonic()
        self.__class__ = self.ordinary


_noting: dict[type[Any], type[Any]] = {}


def noting(base: type[Any]) -> type[Any]:
    """The class of connections that become those of class `base` when they send their first byte."""
    if base not in _noting:
        members = {"__slots__": (), "ordinary": base}
        _noting[base] = type(f"FirstByte{base.__name__}", (FirstByte, base), members)
    return _noting[base]


def notes_first(conn: Connection) -> bool:
    """Whether the connection is to note its first byte, and has sent none yet."""
    return isinstance(conn, FirstByte)
