"""What a child of the fork model does, from fork(2) to its end, and what its parent makes ready for that.

Law: each page of memory that a child touches is copied, 4 us for each, and most children live for one conversation. So
what all of them need is made and looked up by the parent, and no child calls a function, or asks for a name, that the
parent has not asked for before: what Python has not adapted yet (PEP 659) costs three pages for each name.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from typing import NoReturn

from pronghorn.connection.blocking import Connection
from pronghorn.connection.closing import let_go
from pronghorn.models.children import patience_of
from pronghorn.scoreboard.counts import PID, Counts
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import ChildContext
from pronghorn.serving.conversations import LEAVE, Conversations, nothing
from pronghorn.system.drain import Drain, Wake
from pronghorn.system.process_exit import Forks
from pronghorn.system.processes import death_signal
from pronghorn.system.watchdog import Watchdog

CUT = 6  # the exit status of a child whose connection was cut at the drain deadline


class Parent:
    """The process whose children serve. A child calls `signal_at_death` to be sent a signal when that process dies;
    `patience` and `sweep` are for the child's drain."""

    __slots__ = ("_drain", "_missed", "_replaced", "_supervisor", "patience", "pid", "signal_at_death", "sweep")

    def __init__(self, drain: Drain, own: ChildContext, signal_at_death: Callable[[int], object]) -> None:
        self.pid, self._supervisor, self.signal_at_death = os.getpid(), os.getppid(), signal_at_death
        self.patience, self._replaced = patience_of(drain, own), drain.patience  # to free it costs a child, too
        self.sweep: Callable[[], object] = nothing
        self._drain, self._missed = drain, False

    def wake(self) -> None:
        """In a child: have the worker look at what its children have written down."""
        if os.getppid() == self.pid:
            os.kill(self.pid, signal.SIGCHLD)

    def look(self) -> None:
        """In a child: if the worker has died, and no supervisor has taken its place, drain, and be ended if that hangs.
        To be asked more than once: the signals of two deaths may become one, or find the handler just before it sleeps.
        """
        if not self._missed and os.getppid() not in (self.pid, self._supervisor):
            self._missed = True
            self._drain.begin("the worker is gone, and so is the supervisor")
            Watchdog().put_off(self._drain.timeout + LEAVE)


def child_of(
    flows: Flows, own: ChildContext, mine: Conversations, forks: Forks, parent: Parent
) -> Callable[[Connection, Counts, list[int]], NoReturn]:
    """What a child does, as one function: let go of everything that is not its own, converse, leave as a program does.

    The parent's signal handlers stay, since to set others costs a child some thirty page faults: SIGTERM begins the
    drain, which now is this connection's, and SIGCHLD does nothing. SIGURG comes when a child has lived for a while,
    and starts a flow of control that keeps its deadlines, which most children never need. It also comes when the
    worker dies. All that a child asks is looked up here, since code that no parent runs costs three faults for a name.
    """
    drain, wake, parked = flows.context.drain, flows.wake, flows.parked
    begin, converse, end, lost, leave = forks.begin, mine.converse, forks.end, drain.lost, os._exit
    limits = flows.context.process_limits()
    limit = None if type(limits) is nullcontext else limits.__enter__

    def child(conn: Connection, counts: Counts, held: list[int]) -> NoReturn:
        if limit is not None:
            limit()
        begin()
        part(parent, own, conn, counts, drain, wake, held, parked)
        converse(conn)
        # At the drain deadline the parent kills what is left: before that, what is not done has to be observed.
        try:
            end(lambda: drain.deadline - min(LEAVE, drain.timeout / 4), lost)
        finally:
            leave(CUT if own.cut else 0)

    return child


def part(
    parent: Parent,
    own: ChildContext,
    conn: Connection,
    counts: Counts,
    drain: Drain,
    wake: Wake,
    held: list[int],
    parked: dict[int, Connection],
) -> None:
    """In a child: take the connection, and let go of what is the parent's. It is rehearsed as conversations are."""
    own.serve_one(conn, counts)
    signal_at_death = parent.signal_at_death  # Python adapts a call of what a slot holds only in two steps
    signal_at_death(signal.SIGURG)
    drain.patience, drain.at_stop = parent.patience, 0.0
    drain.close()
    wake.close()
    for fd in held:
        if fd != conn.fd:
            os.close(fd)
    for each in parked.values():
        let_go(each)
    counts.words[PID] = drain.owner
    # A flow of its own sees to the drain: the handler has this one, perhaps in a call that blocks.
    drain.when_begun(parent.sweep)
    if os.getppid() != parent.pid:  # it had died before
        os.kill(os.getpid(), signal.SIGURG)


def part_in_rehearsal(own: ChildContext, conn: Connection, counts: Counts) -> None:
    """The same in the parent, of which nothing is let go."""
    drain = Drain(1.0)
    parent = Parent(drain, own, death_signal(in_earnest=False))
    parent.pid = os.getppid()
    part(parent, own, conn, counts, drain, Wake(), [conn.fd, os.dup(conn.fd)], {})
