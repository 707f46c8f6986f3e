"""The children of the fork model, as their parent knows them: what each counts, how old it is, how it is ended.

Law: a child is told by a signal, and writes what it counts into memory that its parent shares; a signal goes only to
processes that this one has forked and not reaped yet.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pronghorn.peers import Peer
from pronghorn.scoreboard.counts import END_BY, NEVER, Counts
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import ChildContext
from pronghorn.serving.conversations import LEAVE, SWEEP
from pronghorn.serving.goodbyes import SAID, Answer
from pronghorn.serving.service import Offer
from pronghorn.system.drain import Drain

FOREVER = 1e9  # seconds
AGAIN = 1.0  # seconds


class Child(NamedTuple):
    """A child, as its parent knows it: the peer, what the child counts, since when, what the listener offers, and the
    connection's number."""

    peer: Peer
    counts: Counts
    opened: float
    offer: Offer
    number: int


Children = dict[int, Child]  # by process id


class Elders:
    """Finds children that have lived for so many seconds that there is a deadline to keep; each of them once more after
    AGAIN seconds. A signal that a child gets just before it sleeps in a call is not heard before that call is over
    (Python runs a handler between two steps of its own): a long reply to a peer that never reads would never be."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._young: tuple[dict[int, float], ...] = ({}, {})  # born then, or found once then; the oldest first

    def born(self, pid: int, at: float) -> None:
        for young in self._young:
            young.pop(pid, None)  # an earlier child of the same number
        self._young[0][pid] = at

    def since(self, now: float) -> set[int]:
        """Those whose time has come since the last call; they may have ended meanwhile."""
        young, known = self._young
        found = [_due(known, now, AGAIN), _due(young, now, self._seconds)]
        known.update(dict.fromkeys(found[1], now))
        return {*found[0], *found[1]}


def _due(young: dict[int, float], now: float, seconds: float) -> list[int]:
    """Take out those that have been there for so long."""
    old = []
    while young and now - young[pid := next(iter(young))] >= seconds:
        del young[pid]
        old.append(pid)
    return old


def patience_of(drain: Drain, own: ChildContext) -> Callable[[], float]:
    """The patience of a child's drain: when the worker has it drain, the worker has written by when it has to be done.
    To be made before the first fork."""

    def patience() -> float:
        end_by = own.counts.words[END_BY]
        if end_by == NEVER:
            return FOREVER
        return max(0.0, end_by / 1e9 - time.monotonic()) if end_by > 0 else drain.timeout

    return patience


def tell(children: Children, drain: Drain) -> None:
    """Have children drain, by the deadline of this process; gently, in their own time, if it does not drain itself."""
    for each in children.values():
        each.counts.words[END_BY] = int(drain.deadline * 1e9) if drain.begun else NEVER
    send(children, signal.SIGTERM)


def tell_one(children: Children, drain: Drain, pid: int, waited: float) -> Answer:
    """Say goodbye to the connection of one child, which finds a quiet moment for it by itself."""
    tell({pid: children[pid]}, drain)
    return SAID


def drain_children(flows: Flows, children: Children, settle: Callable[[], None]) -> None:
    """Tell every child that draining has begun, wait for them, and kill what is left at the drain deadline."""
    drain = flows.context.drain
    told = not drain.spread
    if told:
        tell(children, drain)
    while children and time.monotonic() < drain.deadline:
        flows.tick()
        flows.end_idle()
        if not (drain.spread or told):
            tell(children, drain)
            told = True
        left = drain.deadline - time.monotonic()  # children cut what they have when it is over
        time.sleep(max(0.0, min(SWEEP, left)))
        settle()
    for pid, each in children.items():
        flows.context.note_cut(pid, each.peer, each.opened)
    facts = [each.facts for each in flows.context.handlers]
    if any(each.needs_asyncio for each in facts):  # a coroutine that is cancelled has things to do
        await_children(children, settle, 2 * LEAVE)
    elif not all(each.blocks for each in facts):  # and so has a handler that is told of the end
        await_children(children, settle, LEAVE)
    send(children, signal.SIGKILL)
    await_children(children, settle, LEAVE)


def await_children(children: Children, settle: Callable[[], None], seconds: float) -> None:
    patience = time.monotonic() + seconds
    while children and time.monotonic() < patience:
        time.sleep(SWEEP / 10)
        settle()


def send(children: Iterable[int], signum: int) -> None:
    for pid in children:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass


def wake(children: Iterable[int]) -> None:
    """Have children look at what they have to look after: their deadlines, and what their parent has written down."""
    send(children, signal.SIGURG)


def kill(children: Iterable[int]) -> None:
    send(children, signal.SIGKILL)


def end_session(program: int) -> None:
    """A child was killed while it waited for a program: the program and its session end too."""
    try:
        if os.getsid(program) == program:
            os.killpg(program, signal.SIGKILL)
    except OSError:
        pass
