"""The accepting flow of control of models with a flow of control per connection.

Law: one flow of control accepts, here, and it never runs a handler; except under iterative and prefork, whose only flow
does both, so that a second one watches beside it (heartbeat.py).
"""

from __future__ import annotations

import functools
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from pronghorn.connection.blocking import Connection
from pronghorn.events import ClientsWait
from pronghorn.listening.listener import Exhausted, Listener
from pronghorn.peers import Peer
from pronghorn.scoreboard.row import DRAINING, LEAVING
from pronghorn.serving.admission import Full
from pronghorn.serving.context import BEAT, DESERTED, TICK, Context, OutOfMemory, Thing
from pronghorn.serving.conversations import SWEEP, Conversations, Tell, nothing
from pronghorn.serving.gate import EXHAUSTED_PAUSE, FAIR_PAUSE, Gate
from pronghorn.serving.parking import Parking
from pronghorn.serving.polls import PROCESSES, EpollSet, Places, Polled, Poller
from pronghorn.system.drain import Wake

Ask = Callable[[], bool]


def _always() -> bool:
    return True


def _never() -> bool:
    return False


class Flows(Conversations):
    """The accepting flow of control, and the conversations of the others. `connection_class` is a Connection, or a
    class like it. `watched` is what is heard beside the listeners: by default, all that the context has. `beside` is
    called with the time at each look at the deadlines. `by_turns`: the flow that accepts converses, too, and accepts
    from listeners at which other processes do the same.
    """

    def __init__(
        self,
        context: Context,
        connection_class: type[Any] = Connection,
        watched: Iterable[Thing] | None = None,
        beside: Callable[[float], None] | None = None,
        by_turns: bool = False,
    ) -> None:
        self.wake = Wake()  # a conversation has ended: there may be room again
        self._hears_ends = False  # somebody waits for that: else to wake him would cost each connection two calls
        super().__init__(context, self._conversation_ended)
        self.parked: dict[int, Connection] = {}  # accepted, and the client has not spoken yet
        self._connection_classes = {each.name: connection_class for each in context.offers.values()}
        for each in context.offers.values():
            if each.service.tls_at_once:
                from pronghorn.tls.blocking import secured

                self._connection_classes[each.name] = secured(connection_class)
        if context.notes_first:
            from pronghorn.connection.first_byte import noting

            self._connection_classes = {name: noting(each) for name, each in self._connection_classes.items()}
        self._watched = {thing.fileno(): thing for thing in (context.watched if watched is None else watched)}
        self._beside = beside
        self._by_turns = by_turns
        self._is_called = False  # by a thread that could not accept for itself
        self._gate = Gate(context.to_be_served_alone)
        self._beat_at = 0.0
        self._straight_until = 0.0  # nothing beside clients is due before
        self._has_let_go = False

    def accepted(
        self, room: Ask = _always, woken: Tell = nothing, busy: Ask = _never, places: Places | None = None
    ) -> Iterator[Connection]:
        """Connection after connection, until draining began and the kernel's queue is empty.

        While there is no `room`, clients wait in the kernel's queue. `woken` is called when a conversation has ended.
        `busy` says whether there are conversations beside those that are open here. Threads at `places` accept most
        connections for themselves.
        """
        drain, last, fresh = self.context.drain, -1, False
        poller = self._begin(places)
        polled, listeners = self._polled, self._polled.listeners
        self.context.ready()
        while not drain:
            if drain.lets_go and not self._goes_on(polled, busy):
                break
            now = time.monotonic()
            rest = self.wait(now)
            if now >= self._beat_at or not rest:
                self.tick()
                self._parking.turn_late_away(now)
                self._observe_waiting(room, listeners)
                now, fresh = time.monotonic(), self._by_turns  # another process may have died that was woken
                rest = self.wait(now)
            ready = self._is_ready(_always if self._share else room, now)
            if ready is not polled.on or polled.full:
                polled.look(ready, now)
            if self._share is not None:
                self._share.look_again()
            if fresh and ready and not (self.parked or polled.full):
                waiting = [*listeners]
            else:
                waiting = self._waiting(poller, self._patience(rest, now), woken)
            fresh = False
            if not waiting or drain:
                continue
            last = min(waiting, key=lambda fd: (fd <= last, fd))  # each in its turn
            conn, self._straight_until = self._come(last), min(self._beat_at, now + rest)
            while conn is not None:
                yield conn
                if not (fresh := self._by_turns):  # the next client may have come during this conversation
                    break
                conn, fresh = (self._come(last), False) if self._is_straight(last) else (None, True)
        polled.look(False, time.monotonic())
        yield from self._last(listeners, self._parking, room, woken)

    def _is_straight(self, fd: int) -> bool:
        """Whether there is nothing to be attended to but this listener."""
        polled, now = self._polled, time.monotonic()
        if now >= self._straight_until or self.context.drain.lets_go or not self._gate.is_open(now):
            return False
        return fd in polled.listeners and len(polled.listeners) == 1 and not (self.parked or polled.full)

    def _begin(self, places: Places | None) -> Poller:
        """What the accepting flow waits at; clients that threads accept for themselves are no concern of it. With
        several listeners, and with TLS, there is more to do than a thread can do that only accepts."""
        poller: Poller = EpollSet() if self._by_turns and PROCESSES else select.poll()
        for fd in (self.context.drain.fileno(), self.wake.fileno(), *self._watched):
            poller.register(fd, select.POLLIN)
        listeners = self.context.listeners
        plain = len(listeners) == 1 and not any(each.tls_at_once for each in self.context.services)
        self._share = places if plain and places is not None and places.shared else None
        if self._share is not None:
            self._share.take = self.take
        self._polled = Polled(poller, self._share or poller, listeners, self.parked)
        self._parking = Parking(self.context, poller, self.parked)
        return poller

    def _waiting(self, poller: Poller, seconds: float, woken: Tell) -> list[int]:
        """Wait, and attend to what is no client: the descriptors at which there are some."""
        waiting = []
        for fd, _ in poller.poll(seconds * 1000):
            if fd in self._polled.listeners or fd in self.parked:
                waiting.append(fd)
            else:
                self._attend(fd, woken)
        return waiting

    def take(self, fd: int) -> Connection | None:
        """The next connection of this listener, for one of many flows of control that each accept for themselves; one
        at a time calls this. Whatever stands in the way is left to the accepting flow."""
        now = time.monotonic()
        if self.context.drain.lets_go or not self._gate.is_open(now):
            return None
        listener, conn = self._polled.listeners[fd], None
        try:
            conn = self._accepted_from(listener)
        except BaseException as error:
            self._gate.rest(EXHAUSTED_PAUSE, now)
            with suppress(OutOfMemory):  # which the accepting flow will raise
                self.context.fault(error)
        if conn is not None and self._gate.alone:
            self._gate.took_one(now)
        if not self._gate.is_open(now) or listener not in self.context.listeners:
            self._is_called = True
            self.wake.set()
        return conn

    def with_others(self, first: Connection, most: int) -> list[Connection]:
        """This connection and those whose clients wait behind it, `most` in all: for a process that forks for each. It
        writes into memory that it shares with the last child once for all of them."""
        found, listener = [first], self.context.by_name[first.listener].listener
        while len(found) < most and not (self._gate.alone or self.context.drain.lets_go or listener.fileno() < 0):
            if (conn := self._come(listener.fileno())) is None:
                break
            found.append(conn)
        return found

    def _is_ready(self, room: Ask, now: float) -> bool:
        """Whether to accept now; if not, or if a listener is full, the end of a conversation is waited for as well."""
        ready = room() and self._gate.is_open(now)
        self._hears_ends = not ready or self.context.drain.lets_go or bool(self._polled.full)
        return ready if ready or not self._hears_ends else room() and self._gate.is_open(now)  # one may have ended

    def _last(self, listeners: dict[int, Listener], parking: Parking, room: Ask, woken: Tell) -> Iterator[Connection]:
        """Draining has begun: the clients that are in the queues already, and no others."""
        self.context.row.state, self._hears_ends = DRAINING, True
        yield from self._queued(len(self.parked), parking.next, room, woken)
        for listener in [each for each in listeners.values() if each.fileno() >= 0]:
            yield from self._queued(listener.queued(), functools.partial(self._accept, listener), room, woken)
        for listener in listeners.values():  # not before: a page may have noted their descriptors
            listener.close()
        self._tell_let_go()

    def _goes_on(self, polled: Polled, busy: Ask) -> bool:
        """Let go of the listeners, of those that no other worker serves when their queue is empty. What is open goes
        on; when nothing is, draining begins. Whether it has not begun."""
        self._hears_ends = True
        for fd, listener in list(polled.listeners.items()):
            if listener.fileno() < 0 or not self._waits_for_us(listener):
                polled.drop(fd)
                listener.close()
        self.context.row.state = LEAVING  # which says that it accepts no more
        if not polled.listeners:
            self._tell_let_go()
        if not (polled.listeners or self.open or self.parked or busy()):
            self.context.drain.begin(DESERTED)
        return not self.context.drain.begun

    def let_go_beside(self) -> None:
        """Let go of the listeners from a second flow of control, while a conversation holds the first."""
        if self._has_let_go:
            return
        self.wake.set()
        with self.context.lock:  # which the end of the conversation needs, so that it is not over yet
            if not self.open:
                return
            for listener in self.context.listeners:
                if listener.fileno() >= 0 and not self._waits_for_us(listener):
                    listener.close()
            self.context.row.state = LEAVING
        if all(each.fileno() < 0 for each in self.context.listeners):
            self._tell_let_go()

    def _waits_for_us(self, listener: Listener) -> bool:
        """Whether a client is in the queue of a listener that no other worker serves."""
        if listener.address not in self.context.drain.alone:
            return False
        poller = select.poll()
        poller.register(listener.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    def _conversation_ended(self) -> None:
        if self._hears_ends:
            self.wake.set()

    def _tell_let_go(self) -> None:
        if not self._has_let_go:
            self._has_let_go = True
            self.context.let_go()

    def _observe_waiting(self, room: Ask, listeners: dict[int, Listener]) -> None:
        """At a heartbeat, if there is no room: observe that clients are in a queue."""
        if room():
            return
        poller = select.poll()
        most = self.context.model.capacity(self.settings, sys.maxsize)
        for fd in listeners:
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(0):
            self.context.observe(ClientsWait(listeners[fd].address, *most))

    def look_by(self, at: float) -> None:
        """Have the next look at the deadlines, and with it the call of `beside`, no later than then (monotonic)."""
        self.timeouts.look_by(at)

    def hear(self) -> None:
        """Take what has come for the things that are watched, while nothing polls them."""
        poller = select.poll()
        for fd in self._watched:
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(0):
            self._watched[fd].on_readable()

    def finish(self) -> None:
        """After the last accept: let the open connections finish, and cut what is left at the drain deadline."""
        self.sweep(self.tick)
        self.await_flows()

    def tick(self) -> None:
        """What the accepting flow does at each look: the heartbeat when it is due, and the deadlines."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + BEAT
            self.context.go_on()
            self.context.guarded(self.context.tick, now)
            self.context.guarded(self.look_for_lost)
        self.context.guarded(self.keep_deadlines, now)
        if not self.context.drain.begun:
            self.context.guarded(self.say_goodbyes, now)
        else:
            self.context.guarded(self.hear)
        if self._beside is not None:
            self.context.guarded(self._beside, now)

    def _come(self, fd: int) -> Connection | None:
        """A client that may be served now, if there is one."""
        listener, conn = self._polled.listeners.get(fd), None
        if listener is None:
            conn = self._parking.take(fd)
        elif (conn := self._accepted_from(listener)) is None:
            if listener not in self.context.listeners:  # it has died
                self._polled.drop(fd)
        elif self._parking.keeps(conn):
            return None
        if conn is not None and self._gate.alone:
            self._gate.took_one(time.monotonic())
        return conn

    def _accepted_from(self, listener: Listener) -> Connection | None:
        if self.context.gives_way():
            self._gate.rest(FAIR_PAUSE, time.monotonic())
            return None
        try:
            return self._accept(listener)
        except Full:
            if self._share is not None:  # the only listener; and it is the accepting flow that watches and leaves it
                self._gate.run_short(time.monotonic())
            else:
                self._polled.leave_out(listener.fileno(), time.monotonic())
            return None

    def _accept(self, listener: Listener) -> Connection | None:
        try:
            got = self.context.accept(listener)
        except Full:
            raise
        except Exhausted:
            self._gate.run_short(time.monotonic())
            return None
        except OSError:
            return None
        return None if got is None else self._connection(listener, *got)

    def _connection(self, listener: Listener, fd: int, peer: Peer) -> Connection | None:
        offer = self.context.offers[listener]
        limits = offer.service.limits
        is_proxy = limits.proxied and limits.is_proxy(peer)
        try:
            made = self._connection_classes[offer.name]
            conn: Connection = made(listener.family, socket.SOCK_STREAM, 0, fileno=fd)
        except OSError as error:  # of this connection, and none of the listener's
            self.context.refuse(offer, fd, peer, str(error), admitted=not is_proxy)
            return None
        if offer.service.certificates is not None and not offer.service.tls_at_once:
            offer.service.certificates.context()  # here, so that a child of the fork model need not make a new one
        conn.begin(self.context.number(offer, None if is_proxy else peer), peer, self.context.drain, offer.name)
        self.open[conn.number] = self.context.holders[fd] = conn
        return conn

    def _queued(self, left: int, take: Callable[[], Connection | None], room: Ask, woken: Tell) -> Iterator[Connection]:
        # Clients in the queue were promised a server when the kernel shook hands with them. Those who come later are
        # for other workers, if there are any: under steady load the queue would never be empty.
        while left and time.monotonic() < self.context.drain.deadline:
            self.tick()
            if not room():  # idle conversations may be all that is in the way
                self.end_idle()
                self.pause(SWEEP)
                woken()
                continue
            try:
                conn = take()
            except Full:  # until one of its connections ends
                self.pause(SWEEP)
                woken()
                continue
            if conn is not None:
                left -= 1
                yield conn
                if self.pause(0):
                    woken()
            elif self._gate.relieve():
                self.pause(SWEEP)
                woken()
            else:
                return

    def _patience(self, rest: float, now: float) -> float:
        """Seconds to wait at most for clients; `rest` is when something beside the conversations is due."""
        patience = min(TICK, rest, self._gate.wait(now) or TICK)
        if self._polled.full:
            patience = max(0.0, min(patience, *(until - now for until in self._polled.full.values())))
        return patience

    def _attend(self, fd: int, woken: Tell) -> None:
        if fd == self.wake.fileno():
            self.wake.clear()
            called, self._is_called = self._is_called, False
            if called:
                for each in [fd for fd, mine in self._polled.listeners.items() if mine not in self.context.listeners]:
                    self._polled.drop(each)
                return
            self._gate.relieve()
            if self._polled.full:
                self._polled.relieve()
            woken()
        elif fd == self.context.drain.fileno():
            self.context.drain.clear()
        elif fd in self._watched:
            self._watched[fd].on_readable()

    def pause(self, seconds: float) -> bool:
        self._hears_ends = True
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        ended = bool(poller.poll(seconds * 1000))
        if ended:
            self.wake.clear()
        return ended
