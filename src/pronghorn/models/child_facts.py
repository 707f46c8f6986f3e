"""What the parent of the fork model can tell of its children's connections, and how one of them is ended.

Law: the parent never waits for a child. It asks those whose answer is needed, and goes on; ANSWER seconds later it
tells what it knows by itself of those that have not spoken. A child that does not end within LEAVE seconds is killed.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import time
from collections.abc import Callable, Iterable

import msgspec

from pronghorn.connection.socket_facts import KernelFacts
from pronghorn.models.children import Child, Children, kill, wake
from pronghorn.peers import Peer
from pronghorn.scoreboard.counts import ASKED, ENDED
from pronghorn.serving.connection_inquiry import end_now, endpoint
from pronghorn.serving.connection_rows import ConnectionRow, Facts, State, peer_text
from pronghorn.serving.context import ChildContext
from pronghorn.serving.conversations import LEAVE

ANSWER = 0.3  # seconds
PLACE = 16 * 1024  # bytes of an answer; memory that no answer has touched costs nothing


class ChildFacts(Facts):
    """The Facts of a connection that a child has: what its parent knows, and what the child has `told`."""

    __slots__ = ("child", "pid", "told")

    def __init__(self, pid: int, child: Child, now: float, told: ConnectionRow | None = None) -> None:
        self.pid, self.child, self.now, self.told = pid, child, now, told

    @property
    def number(self) -> int:
        return self.child.number

    @property
    def address(self) -> Peer:
        if self.told is not None and self.told.proxy is not None:
            return endpoint(self.told.peer) or self.told.peer.removeprefix("unix:")
        return self.child.peer

    @property
    def peer(self) -> str:
        if self.told is not None and self.told.proxy is not None:
            return self.told.peer  # what the proxy has said to the child
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
        return None if self.told is None or self.told.idle is None else min(self.told.idle, self.age)

    @property
    def both_ways(self) -> tuple[int, int]:
        if self.told is not None:
            return self.told.bytes_in, self.told.bytes_out
        return self.child.counts.bytes_in, self.child.counts.bytes_out

    @property
    def messages(self) -> int:
        return self.told.messages if self.told is not None else int(self.child.counts.messages)

    @property
    def rtt_us(self) -> int | None:
        return None if self.told is None else self.told.rtt_us

    @property
    def retransmits(self) -> int | None:
        return None if self.told is None else self.told.retransmits

    @property
    def send_queue(self) -> int | None:
        return None if self.told is None else self.told.send_queue

    @property
    def receive_queue(self) -> int | None:
        return None if self.told is None else self.told.receive_queue

    @property
    def state(self) -> State:
        return self.told.state if self.told is not None else "OPEN"

    @property
    def fields(self) -> dict[str, str]:
        return self.told.fields if self.told is not None else {}

    def row(self) -> ConnectionRow:
        if self.told is not None:
            known = {"number": self.number, "peer": self.peer, "listener": self.listener, "age": round(self.age, 6)}
            return msgspec.structs.replace(
                self.told, **known, idle=_rounded(self.idle), program=self.told.program or self.pid
            )
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


_row = msgspec.json.Decoder(ConnectionRow)


class ConnectionsApart(Children):
    """The children, whose connections can be asked for: see Apart in serving/connection_inquiry.py.

    A child is asked by a word in the entry that it shares with its parent, and SIGURG. It answers on a flow of control
    of its own, unless its handler computes in C: into a place of memory that both share, since a child keeps no
    descriptor beside its own connection.
    """

    def __init__(self, most: int) -> None:
        """For the parent, before the first fork; there are `most` children."""
        super().__init__()
        self.look_by: Callable[[float], None] = lambda at: None
        """Called with an instant (monotonic) by which `late` shall be called, whenever there is one."""
        self.asked: list[Callable[[], None]] = []
        """What is called when children have told; empty while nobody has asked: then `collect` has nothing to do."""
        self._look_by = self._answer_by = math.inf
        self._memory, self._free = mmap.mmap(-1, most * PLACE), [*range(most)]
        self._places: dict[int, int] = {}  # of children that were asked, by process id, while they live
        self._rows: dict[int, ConnectionRow] = {}
        self._awaited: set[int] = set()
        self._ending: dict[int, float] = {}  # until when a child may end by itself
        self._pids: dict[int, int] = {}  # by the connection's number, up to the one that was the newest
        self._newest = -1

    # What the parent is asked.

    def numbers(self) -> list[int]:
        return [each.number for each in self.values()]

    def facts(self, number: int, now: float) -> ChildFacts | None:
        found = self._found(number)
        return None if found is None else ChildFacts(*found, now, self._rows.get(found[0]))

    def gather(self, numbers: Iterable[int], then: Callable[[], None]) -> None:
        for pid in [pid for pid in self._places if pid not in self]:
            self._free.append(self._places.pop(pid))
        wanted = {found[0] for number in numbers if (found := self._found(number)) is not None}
        for pid in wanted - self._awaited:
            if pid not in self._places:
                self._places[pid] = self._free.pop()
            self[pid].counts.words[ASKED] = 1 + self._places[pid]
        wake(wanted - self._awaited)
        self._awaited |= wanted
        self.asked.append(then)
        self._answer_by = min(self._answer_by, time.monotonic() + ANSWER)
        self._answer_if_complete()

    def end(self, number: int) -> bool:
        if (found := self._found(number)) is None:
            return False
        pid, child = found
        child.counts.words[ENDED] = 1
        wake([pid])
        self._ending.setdefault(pid, time.monotonic() + LEAVE)
        self._plan()
        return True

    def _found(self, number: int) -> tuple[int, Child] | None:
        newest = next(reversed(self.values())).number if self else -1
        if newest != self._newest:
            self._pids, self._newest = {each.number: pid for pid, each in self.items()}, newest
        pid = self._pids.get(number, 0)
        child = self.get(pid)
        return None if child is None or child.number != number else (pid, child)

    # What the parent's flow of control calls.

    def collect(self) -> None:
        """Some children may have answered."""
        for pid in self._awaited & self.keys():
            if (length := -self[pid].counts.words[ASKED]) > 0:
                start = self._places[pid] * PLACE
                self._awaited.discard(pid)
                with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
                    self._rows[pid] = _row.decode(self._memory[start : start + min(length, PLACE)]).believed()
        self._answer_if_complete()

    def late(self, now: float) -> None:
        """Answers without those that have not spoken, and kills those that shall have ended."""
        if self._look_by == math.inf:
            return
        self.collect()
        if now >= self._answer_by:
            self._awaited.clear()
        for pid in [pid for pid, until in self._ending.items() if now >= until or pid not in self]:
            del self._ending[pid]
            kill([pid] if pid in self else [])
        self._answer_if_complete()

    def _answer_if_complete(self) -> None:
        self._awaited &= self.keys()
        if not self._awaited:
            then, self.asked, self._answer_by = self.asked, [], math.inf
            for each in then:
                each()
            self._rows.clear()
        self._plan()

    def _plan(self) -> None:
        self._look_by = min(self._answer_by, *self._ending.values(), math.inf)
        if self._look_by < math.inf:
            self.look_by(self._look_by)

    # What a child does.

    def wants(self, context: ChildContext) -> bool:
        """In a child: whether the parent has written down something to do."""
        return bool(context.counts.words[ASKED] or context.counts.words[ENDED])

    def answer(self, context: ChildContext, answered: Callable[[], None]) -> None:
        """In a child, on a flow of control of its own: does what the parent has written down, and says so."""
        words = context.counts.words
        for conn in list(context.open.values()):
            if words[ENDED]:
                end_now(conn)
            if (place := words[ASKED]) > 0:
                row = Facts(conn, time.monotonic()).row()
                told = msgspec.json.encode(row)
                if len(told) > PLACE:
                    told = msgspec.json.encode(msgspec.structs.replace(row, fields={}))
                self._memory[(place - 1) * PLACE : (place - 1) * PLACE + len(told)] = told
                words[ASKED] = -len(told)
                answered()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
