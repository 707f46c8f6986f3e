"""A process for every connection: accept, fork; the parent closes the connection, the child closes the listener.

It costs a process per connection, about a millisecond. The parent must reap its children, or each leaves a zombie:
SIGCHLD says that some have ended, one signal for any number of them, so the parent asks after each. Clients that wait
together get their processes in a row, since each page that the parent writes after a fork is copied once more. What
iterative could not do: serve many at once; and what a child breaks, it breaks for its own client only.
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pronghorn import identity
from pronghorn.errors import End
from pronghorn.events import ChildDied, SignalsTaken
from pronghorn.listening.listener import Listener
from pronghorn.models.child_facts import ConnectionsApart
from pronghorn.models.child_process import CUT, Parent, child_of, part_in_rehearsal
from pronghorn.models.children import (
    Child,
    Children,
    Elders,
    drain_children,
    end_session,
    tell,
    tell_one,
    wake,
)
from pronghorn.models.model import Model
from pronghorn.scoreboard.counts import PROGRAM, ChildCounts
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import ChildContext, Context
from pronghorn.serving.conversations import Conversations
from pronghorn.serving.rehearsal import rehearse
from pronghorn.system.drain import Drain
from pronghorn.system.lean_fork import LeanFork
from pronghorn.system.process_exit import Forks
from pronghorn.system.processes import death_signal

AT_ONCE = 8  # children that are forked in a row


def descriptors(context: Context, listeners: list[Listener]) -> list[int]:
    """What belongs to the parent, and each child closes. Asked at the fork: what the parent has closed before may have
    left its number to the child's connection."""
    held = [*(each.fileno() for each in context.watched), context.spare.fileno()]
    return [fd for fd in (*held, *(fd for each in listeners for fd in each.descriptors())) if fd >= 0]


def first_look(flows: Flows) -> float:
    families = {each.family for each in flows.context.listeners}
    return flows.timeouts.first_look(hasattr(socket, "TCP_INFO") and socket.AF_UNIX not in families)


def handle_signals(
    flows: Flows, mine: list[Conversations], own: ChildContext, children: ConnectionsApart, parent: Parent
) -> Any:
    """SIGCHLD for the parent, SIGURG for its children, which may come more than once: `mine` holds what a child has to
    look after. Returns what SIGCHLD did before."""

    def look_after(*_: object) -> None:
        if os.getpid() != parent.pid:
            if mine and own.open:  # it has just been forked, and is sent another
                _thread.start_new_thread(mine.pop().look_after, ())
            parent.look()
            if children.wants(own):
                _thread.start_new_thread(children.answer, (own, parent.wake))

    signal.signal(signal.SIGURG, look_after)
    previous = signal.signal(signal.SIGCHLD, lambda *_: flows.wake.set())
    if previous is not signal.SIG_DFL:
        flows.context.observe(SignalsTaken(("SIGCHLD",)))
    return previous


def serve(context: Context) -> None:
    children = context.apart = ConnectionsApart(context.settings.max_children)
    flows = Flows(context, beside=lambda now: look_at_children(children, elders, now))
    elders, own = Elders(first_look(flows)), context.for_children()
    parent = Parent(context.drain, own, death_signal())
    mine = Conversations(own, look=parent.look)
    parent.sweep = partial(_thread.start_new_thread, mine.sweep, ())
    rehearse(context, part_in_rehearsal)
    own.become_current()  # here, where no handler is called, and not in each process
    fork, forks, listeners = LeanFork(context.drain), Forks(), [*context.listeners]
    child = child_of(flows, own, mine, forks, parent)
    shared = (context.remains and context.remains.children) or ChildCounts(flows.settings.max_children)
    identity.tell_children_apart(lambda: shared.place_of(os.getpid()))
    settle = partial(settle_dead, context, shared, children)
    look = partial(look_up, children, context.drain, settle)
    flows.told, flows.tell, children.look_by = children, partial(tell_one, children, context.drain), flows.look_by
    previous = handle_signals(flows, [mine], own, children, parent)
    for first in flows.accepted(lambda: len(children) < flows.settings.max_children, look, lambda: bool(children)):
        forks.look()
        some = flows.with_others(first, min(AT_ONCE, flows.settings.max_children - len(children)))
        lent = [(conn, shared.lend(conn.peer, conn.opened)) for conn in some]
        held, born = [*descriptors(context, listeners), *(each.fd for each in some)], []
        for conn, counts in lent:
            try:
                pid = fork()
            except OSError as error:
                shared.back(counts)
                held.remove(conn.fd)
                flows.refuse(conn, f"fork: {error.strerror}")
                continue
            if pid == 0:
                child(conn, counts, held)
            born.append((pid, conn, counts))
        for pid, conn, counts in born:
            children[pid] = Child(conn.peer, counts, conn.opened, context.offer_of(conn), conn.number)
            elders.born(pid, conn.opened)
            flows.forget(conn)
    drain_children(flows, children, settle)
    signal.signal(signal.SIGCHLD, previous)
    signal.signal(signal.SIGURG, signal.SIG_DFL)


def look_up(children: ConnectionsApart, drain: Drain, settle: Callable[[], None]) -> None:
    """What the parent does when it is woken."""
    settle()
    if drain.begun and not drain.spread:
        tell(children, drain)  # also those of a queue that waits for room


def look_at_children(children: ConnectionsApart, elders: Elders, now: float) -> None:
    """What the parent does at each look at its deadlines."""
    wake(elders.since(now) & children.keys())
    children.late(now)


def settle_dead(context: Context, shared: ChildCounts, children: ConnectionsApart) -> None:
    """Take what dead children have counted, and observe those that died before they had closed their connection; and
    what the living have told."""
    if children.asked:
        children.collect()
    for pid, status, (peer, counts, opened, offer, number) in reap(children):
        program = counts.words[PROGRAM]
        offer.service.limits.left(peer)  # before it is open no more
        offer.take_child(counts)
        killed = shared.settle(counts, context.row)
        if status == CUT and not killed and context.drain.begun:  # before its parent woke up at the deadline
            context.note_cut(pid, peer, opened)
        if killed and program > 1:
            end_session(program)
        if killed is None:
            continue
        context.note_killed(offer, opened, killed)
        cut = status == -signal.SIGKILL and (killed is End.OPERATOR or time.monotonic() >= context.drain.deadline)
        if not cut:
            stack = context.remains.stacks.take() if context.remains is not None and status < 0 else ""
            context.observe(ChildDied(peer, pid, status, stack, offer.told, context.id_of(number)))
        context.child_killed(number, peer, opened, offer, cut, killed)


def reap(children: Children) -> list[tuple[int, int, Child]]:
    """Wait for each child that has ended, and for no other process, such as a handler's own. Of each: its process id,
    how it ended (as in subprocess), and what is known of it."""
    dead = []
    for pid in list(children):
        try:
            gone, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            gone, status = pid, 0  # somebody else took the status
        if gone:
            dead.append((pid, os.waitstatus_to_exitcode(status), children.pop(pid)))
    return dead


MODEL = Model(
    name="fork",
    serve=serve,
    own_flow=True,
    purpose="Programs (--exec), and handlers that may crash, leak or change their process.",
    cost="A process per connection: about a millisecond to start, a few MB each.",
    capacity=lambda settings, _: (settings.max_children, "--max-children"),
    in_children=True,
)
