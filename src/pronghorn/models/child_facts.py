"""What the parent of the fork model can tell of its children's connections, and how one of them is ended."""

from __future__ import annotations

from pronghorn.connection.socket_facts import KernelFacts
from pronghorn.models.children import Child, Children
from pronghorn.peers import Peer
from pronghorn.serving.connection_rows import ConnectionRow, Facts, State, peer_text


class ChildFacts(Facts):
    """The Facts of a connection that a child has, as far as its parent knows them."""

    __slots__ = ("child", "pid")

    def __init__(self, pid: int, child: Child, now: float) -> None:
        self.pid, self.child, self.now = pid, child, now

    @property
    def number(self) -> int:
        return self.child.number

    @property
    def address(self) -> Peer:
        return self.child.peer

    @property
    def peer(self) -> str:
        return peer_text(self.child.peer)

    @property
    def listener(self) -> str:
        return self.child.offer.name

    @property
    def age(self) -> float:
        return max(0.0, self.now - self.child.opened)

    @property
    def kernel(self) -> KernelFacts | None:
        return None

    @property
    def idle(self) -> float | None:
        return None

    @property
    def both_ways(self) -> tuple[int, int]:
        return self.child.counts.bytes_in, self.child.counts.bytes_out

    @property
    def messages(self) -> int:
        return int(self.child.counts.messages)

    @property
    def send_queue(self) -> int | None:
        return None

    receive_queue = send_queue

    @property
    def state(self) -> State:
        return "OPEN"

    @property
    def fields(self) -> dict[str, str]:
        return {}

    def row(self) -> ConnectionRow:
        bytes_in, bytes_out = self.both_ways
        return ConnectionRow(
            number=self.number,
            peer=self.peer,
            listener=self.listener,
            age=round(self.age, 6),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            messages=self.messages,
            program=self.pid,
        )


class ConnectionsApart(Children):
    """The children, whose connections can be asked for: see Apart in serving/connection_inquiry.py."""

    def numbers(self) -> list[int]:
        return [each.number for each in self.values()]

    def facts(self, number: int, now: float) -> ChildFacts | None:
        found = self._found(number)
        return None if found is None else ChildFacts(*found, now)

    def end(self, number: int) -> bool:
        return False

    def _found(self, number: int) -> tuple[int, Child] | None:
        return next(((pid, each) for pid, each in self.items() if each.number == number), None)
