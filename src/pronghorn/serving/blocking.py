"""What models with a flow of control per connection share: whom to talk to next, the conversation, and the end.

Law: one flow of control accepts, here, and it is never a handler's; except under iterative and prefork, whose only flow
does both, so that a second one watches beside it. Nobody interrupts a handler: when draining begins its connection is
made to look as if the peer had finished, once no reply is owed, and a well-written handler leaves by its usual door.
"""

from __future__ import annotations

import functools
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

from pronghorn.connection import own_context
from pronghorn.connection.blocking import Connection, cut, end_reading, end_unserved
from pronghorn.connection.closing import last_call, let_go
from pronghorn.connection.in_flight import is_over
from pronghorn.connection.proxy_header import TOO_LATE, WRONG, read_header
from pronghorn.errors import BadProxyHeader, DescriptorLost, PeerTimeout
from pronghorn.events import ClientsWait, ConnectionOpened
from pronghorn.listening.listener import Exhausted, Listener
from pronghorn.peers import Peer
from pronghorn.scoreboard.row import DRAINING, LEAVING
from pronghorn.serving.admission import ALONE_PAUSE, EXHAUSTED_PAUSE, FAIR_PAUSE
from pronghorn.serving.context import BEAT, DESERTED, TICK, Context
from pronghorn.serving.parking import Parking
from pronghorn.serving.timeouts import AGE, OutsideTimeouts, ended_because
from pronghorn.system.drain import Wake

SWEEP = 0.05  # seconds between two looks at the open connections while draining
LEAVE = 1.0  # seconds that flows of control have to notice that their connection was cut


Ask = Callable[[], bool]
Tell = Callable[[], None]


def _always() -> bool:
    return True


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


class Flows:
    """The accepting flow of control, and what it knows of the others."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = context.settings
        self.open = cast(dict[int, Connection], context.open)
        self._contexts = own_context.base()
        self.wake = Wake()  # something ended: there may be room again
        self.parked: dict[int, Connection] = {}  # accepted, and has not spoken yet
        self.watched = {thing.fileno(): thing for thing in context.watched}
        self._rest_until = 0.0
        self._short = False  # of descriptors, or of room: until the next end of a conversation
        self._beat_at = 0.0
        self._has_let_go = False
        self.timeouts = OutsideTimeouts(self.settings, context.handler.framed)
        self.watch_over: Callable[[float], None] = self.keep_deadlines

    def accepted(self, room: Ask = _always, woken: Tell = _nothing, busy: Ask = _never) -> Iterator[Connection]:
        """Connection after connection, until draining began and the kernel's queue is empty.

        While there is no `room`, clients wait in the kernel's queue. `woken` is called after each `wake.set()`. `busy`
        says whether there are conversations beside those that are open here.
        """
        drain, listening, last = self.context.drain, False, -1
        alone = self.context.to_be_served_alone
        poller = select.poll()
        for fd in (drain.fileno(), self.wake.fileno(), *self.watched):
            poller.register(fd, select.POLLIN)
        listeners = {listener.fileno(): listener for listener in self.context.listeners}
        parking = self._parking(poller)
        self.context.ready()
        while not drain:
            if drain.lets_go and not self._goes_on(listeners, poller, listening, busy):
                break
            now = time.monotonic()
            if now >= self._beat_at or not self.timeouts.wait(now):
                self.tick()
                parking.turn_late_away(now)
                self._tell_who_waits(room, listeners)
            ready = room() and now >= self._rest_until
            if ready is not listening:
                listening = ready
                for number in (*listeners, *self.parked):
                    poller.register(number, select.POLLIN) if ready else poller.unregister(number)
            waiting = []
            for fd, _ in poller.poll(self._patience() * 1000):
                if fd in listeners or fd in self.parked:
                    waiting.append(fd)
                else:
                    self._attend(fd, woken)
            if not waiting or drain:
                continue
            last = min(waiting, key=lambda fd: (fd <= last, fd))  # each in its turn
            conn = parking.take(last) if last in self.parked else self._come(listeners[last], parking)
            if conn is not None:
                if alone:
                    alone, self._rest_until = alone - 1, time.monotonic() + ALONE_PAUSE
                yield conn
            elif last in listeners and listeners[last] not in self.context.listeners:  # it has died
                poller.unregister(listeners.pop(last))
        yield from self._last(listeners, parking, room, woken)

    def _last(
        self, listeners: dict[int, Listener], parking: Parking, room: Callable[[], bool], woken: Callable[[], None]
    ) -> Iterator[Connection]:
        """Draining has begun: those who are there already, and then nobody."""
        self.context.row.state = DRAINING
        yield from self._queued(len(self.parked), parking.next, room, woken)
        for listener in [each for each in listeners.values() if each.fileno() >= 0]:
            yield from self._queued(listener.queued(), functools.partial(self._accept, listener), room, woken)
        for listener in listeners.values():  # not before: a page may have noted their descriptors
            listener.close()
        self._tell_let_go()

    def _goes_on(self, listeners: dict[int, Listener], poller: select.poll, listening: bool, busy: Ask) -> bool:
        """Let go of the listeners, of those that nobody else serves when their queue is empty; what is open goes on.
        When nothing is, it drains."""
        self.context.row.state = LEAVING
        for fd, listener in list(listeners.items()):
            if listener.fileno() < 0 or not self._waits_for_us(listener):
                if listening:
                    poller.unregister(fd)
                del listeners[fd]
                listener.close()
        if not listeners:
            self._tell_let_go()
        if not (listeners or self.open or self.parked or busy()):
            self.context.drain.begin(DESERTED)
        return not self.context.drain.begun

    def let_go_beside(self) -> None:
        """The same from a second flow of control, while a conversation holds the first, which would find out late."""
        if self._has_let_go:
            return
        self.wake.set()
        with self.context.lock:  # whoever ends the conversation needs it, so that it is not over yet
            if not self.open:
                return
            self.context.row.state = LEAVING
            for listener in self.context.listeners:
                if listener.fileno() >= 0 and not self._waits_for_us(listener):
                    listener.close()
        if all(each.fileno() < 0 for each in self.context.listeners):
            self._tell_let_go()

    def _waits_for_us(self, listener: Listener) -> bool:
        """Whether somebody is in the queue of a listener that nobody else serves."""
        if listener.address not in self.context.drain.alone:
            return False
        poller = select.poll()
        poller.register(listener.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def _tell_let_go(self) -> None:
        if not self._has_let_go:
            self._has_let_go = True
            self.context.let_go()

    def _tell_who_waits(self, room: Callable[[], bool], listeners: dict[int, Listener]) -> None:
        """At a beat, if there is no room: clients who are in a queue now."""
        if room():
            return
        poller = select.poll()
        most = self.context.model.capacity(self.settings, sys.maxsize)
        for fd in listeners:
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(0):
            self.context.observe(ClientsWait(listeners[fd].address, *most))

    def _parking(self, poller: select.poll) -> Parking:
        """Where clients wait who have to speak first: with certificates, when every connection has TLS below it."""
        if self.context.certificates is not None:
            from pronghorn.tls.blocking import secured

            self.context.connection_class = secured(self.context.connection_class)
        return Parking(self.context, poller, self.parked)

    def converse(self, conn: Connection) -> None:
        """Hold one whole conversation and close; no error leaves here."""
        self._contexts.copy().run(self._converse, conn)

    def _converse(self, conn: Connection) -> None:
        context, error = self.context, None
        conn.flow = threading.get_native_id()
        if context.limits.is_proxy(conn.peer) and not self._introduced(conn):
            self.wake.set()
            return
        try:
            if context.certificates is not None:
                conn.shake_hands(context.certificates.context, self.settings.handshake_timeout)
            context.handler.converse(conn)
        except BaseException as raised:
            error = raised
        try:
            self._end(conn, error)
        except BaseException as fault:
            context.fault(fault)
        finally:
            self.wake.set()

    def _end(self, conn: Connection, error: BaseException | None) -> None:
        """The conversation is over: say so, close, and let go of the number."""
        context = self.context
        if not conn.is_own():
            conn.lose()
        if conn.lost and (error is None or isinstance(error, OSError)):
            because, error = error, DescriptorLost()
            error.__cause__ = because
        if error is not None:
            context.failed(conn, error)
        if context.handler.facts.blocks:
            conn.measure()
        reason = ended_because(conn, error)
        if conn.cut_by is None:
            conn.linger(until=context.drain.deadline)
        context.let_go_of(conn.fd, conn)
        conn.end()
        context.closed(conn, reason)

    def _introduced(self, conn: Connection) -> bool:
        """Whether a proxy has said for whom it speaks, and no limit is against it; else the connection is closed."""
        context, detail = self.context, ""
        try:
            header = conn.waits.call(read_header, conn, self.settings.handshake_timeout)
        except TimeoutError:
            limit = TOO_LATE
        except (BadProxyHeader, OSError) as error:
            limit, detail = WRONG, str(error)
        else:
            conn.introduce(header)
            limit = context.refusal_of_client(conn.peer)
        if not limit:
            context.observe(ConnectionOpened(conn.number, conn.peer))
            return True
        self.open.pop(conn.number, None)
        context.let_go_of(conn.fd, conn)
        end_unserved(conn)
        context.refused(conn.peer, limit, detail)
        return False

    def hold(self, conn: Connection) -> None:
        """The whole life of a flow of control that is there for one conversation."""
        self.converse(conn)
        self.context.handler.leave()

    def refuse(self, conn: Connection, limit: str) -> None:
        """Close a connection unserved: there is no flow of control to be had for it."""
        self.open.pop(conn.number, None)
        self.context.let_go_of(conn.fd, conn)
        self.context.refuse(conn.detach(), conn.peer, limit, admitted=True)

    def forget(self, conn: Connection) -> None:
        """Another process has the connection now: close our descriptor of it."""
        self.open.pop(conn.number, None)
        self.context.let_go_of(conn.fd, conn)
        let_go(conn)

    def finish(self) -> None:
        """After the last accept: let the open connections finish, and cut what is left at the drain deadline."""
        self.sweep(self.tick)
        self.await_flows()

    def await_flows(self) -> None:
        """Give flows of control a moment to notice that their connection was cut."""
        patience = time.monotonic() + LEAVE
        while self.open and time.monotonic() < patience:
            self._wait(SWEEP)

    def tick(self) -> None:
        """A sign of life of the flow that accepts; called whenever it looks up."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + BEAT
            self.context.go_on()
            self.context.guarded(self.context.tick, now)
            self.context.guarded(self.look_for_lost)
        self.context.guarded(self.watch_over, now)

    def look_for_lost(self) -> None:
        """Connections whose descriptor somebody else has closed: their flow of control may wait for it for ever."""
        for conn in list(self.open.values()):
            if not conn.is_own():
                conn.lose()

    def keep_deadlines(self, now: float) -> None:
        """End the connections that are over their time, if it is time for a look."""
        for conn, why in self.timeouts.due(self.open.values(), now):
            if why != AGE:
                cut(conn, PeerTimeout(why))
            elif conn.leave is not None:
                conn.aged = True
                self._take_leave(conn, now + self.context.drain.timeout)
            elif is_over(conn, now, self.settings.drain_quiet):
                conn.aged = True
                end_reading(conn)

    def look_after(self) -> None:
        """Keep the deadlines of a connection that has a process of its own, until it ends."""
        while self.open:
            self.keep_deadlines(time.monotonic())
            time.sleep(self.timeouts.wait(time.monotonic()))

    def sweep(self, tick: Callable[[], None] = _nothing) -> None:
        """Until no connection is open: end the reading of those that owe no reply; at the drain deadline cut all."""
        drain = self.context.drain
        while self.open and time.monotonic() < drain.deadline:
            tick()
            self._end_idle()
            self._wait(SWEEP)
        cancelled = False
        for conn in list(self.open.values()):
            self.context.note_cut(conn.number, conn.peer, conn.opened)
            if conn.cancel is not None and conn.cut_by is None:
                conn.cancel()
                cancelled = True
        if cancelled:
            self.await_flows()
        for conn in list(self.open.values()):
            cut(conn, ConnectionAbortedError("cut at the drain deadline"))

    def _end_idle(self) -> None:
        now, drain, quiet = time.monotonic(), self.context.drain, self.settings.drain_quiet
        late = now >= last_call(drain.deadline, drain.timeout)
        for conn in list(self.open.values()):
            if conn.leave is not None:
                self._take_leave(conn, self.context.drain.deadline)
            elif not (conn.reading_shut or conn.hears_drain or conn.stays) and (late or is_over(conn, now, quiet)):
                end_reading(conn)

    def _take_leave(self, conn: Connection, deadline: float) -> None:
        """Of a conversation on a loop of its own, which knows what it owes: once for each deadline."""
        leave = conn.leave
        if leave is not None and deadline < conn.leaves_by:
            conn.leaves_by = deadline
            leave(deadline, self.context.drain.timeout)

    def _come(self, listener: Listener, parking: Parking) -> Connection | None:
        """A client that may be served now, if there is one."""
        if self.context.gives_way():
            self._rest_until = time.monotonic() + FAIR_PAUSE
            return None
        conn = self._accept(listener)
        return None if conn is None or parking.keeps(conn) else conn

    def _accept(self, listener: Listener) -> Connection | None:
        try:
            got = self.context.accept(listener)
        except Exhausted:
            self._rest_until = time.monotonic() + EXHAUSTED_PAUSE
            self._short = True
            return None
        except OSError:
            return None
        return None if got is None else self._connection(listener, *got)

    def _connection(self, listener: Listener, fd: int, peer: Peer) -> Connection | None:
        try:
            conn: Connection = self.context.connection_class(listener.family, socket.SOCK_STREAM, 0, fileno=fd)
        except OSError as error:  # of this connection, and none of the listener's
            self.context.refuse(fd, peer, str(error), admitted=not self.context.limits.is_proxy(peer))
            return None
        known = None if self.context.limits.is_proxy(peer) else peer
        conn.begin(self.context.number(known), peer, self.context.drain)
        self.open[conn.number] = self.context.holders[fd] = conn
        return conn

    def _queued(
        self, left: int, take: Callable[[], Connection | None], room: Callable[[], bool], woken: Callable[[], None]
    ) -> Iterator[Connection]:
        # Clients in the queue were promised a server when the kernel shook hands with them. Those who come later are
        # for other workers, if there are any: under steady load the queue would never be empty.
        while left and time.monotonic() < self.context.drain.deadline:
            self.tick()
            if not room():  # idle conversations may be all that is in the way
                self._end_idle()
                self._wait(SWEEP)
                woken()
                continue
            conn = take()
            if conn is not None:
                left -= 1
                yield conn
                if self._wait(0):
                    woken()
            elif self._short:
                self._wait(SWEEP)
                woken()
                self._short = False
            else:
                return

    def _patience(self) -> float:
        now = time.monotonic()
        return min(TICK, self.timeouts.wait(now), max(0.0, self._rest_until - now) or TICK)

    def _attend(self, fd: int, woken: Callable[[], None]) -> None:
        if fd == self.wake.fileno():
            self.wake.clear()
            if self._short:
                self._short, self._rest_until = False, 0.0
            woken()
        elif fd == self.context.drain.fileno():
            self.context.drain.clear()
        elif fd in self.watched:
            self.watched[fd].on_readable()

    def _wait(self, seconds: float) -> bool:
        """Whether something has ended meanwhile."""
        if self.wake.fileno() < 0:  # a child of the fork model has none
            time.sleep(seconds)
            return False
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        ended = bool(poller.poll(seconds * 1000))
        if ended:
            self.wake.clear()
        return ended
