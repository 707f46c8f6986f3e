"""Conversations that have a flow of control each: how one is held, what ends it, and what its deadlines are.

Law: nobody interrupts a handler. When draining begins, the handler's connection is made to look as if the peer had
finished, once no reply is owed, and a well-written handler leaves by its usual door.
"""

from __future__ import annotations

import _thread
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.blocking import Connection, cut, end_reading, end_unserved
from pronghorn.connection.closing import last_call, let_go
from pronghorn.connection.in_flight import is_over, is_quiet
from pronghorn.connection.proxy_wait import TOO_LATE, limit_of
from pronghorn.connection.quiet import shrunk
from pronghorn.connection.states import is_peers_fault
from pronghorn.errors import AGE, BadProxyHeader, DescriptorLost, End, PeerTimeout
from pronghorn.events import ConnectionOpened
from pronghorn.serving.context import Context
from pronghorn.serving.goodbyes import LATER, SAID, STAYS, Answer, Goodbyes, Say
from pronghorn.serving.service import Offer, Service
from pronghorn.serving.timeouts import OutsideTimeouts, timeouts_of
from pronghorn.serving.tls_starts import TlsStarts
from pronghorn.system.drain import connection_number

if TYPE_CHECKING:
    from pronghorn.tls.blocking import TlsConnection

SWEEP = 0.05  # seconds between two looks at the open connections while draining
LOOK = 1.0  # seconds between two looks at the deadlines of a process's only connection, at most
LEAVE = 1.0  # seconds that flows of control have to notice that their connection was cut

Tell = Callable[[], None]


def nothing() -> None:
    return None


class Conversations:
    """The open conversations of a process; `ended` is called at the end of each, and `look` at each look of the flow
    of control that `look_after` is."""

    def __init__(self, context: Context, ended: Tell = nothing, look: Tell = nothing) -> None:
        self.context = context
        self.settings = context.settings
        self.open = cast(dict[int, Connection], context.open)
        self.timeouts = timeouts_of(context.offers.values(), OutsideTimeouts)
        self._ended, self._look = ended, look
        self.told: Mapping[int, object] = self.open
        """Whom goodbyes are spread over, and below, how one is said: see goodbyes.py."""
        self.tell: Say = self._say_goodbye
        self._goodbyes: Goodbyes | None = None
        self._while_draining = False
        self._sweeps_since = math.inf
        self._places = {each.name: (each, each.base(), each.listener.sockname) for each in context.offers.values()}
        self._looks_after = False
        self._tls_starts = TlsStarts(context)
        # Methods that are no calls, looked up once: Python adapts no such access.
        self._held, self._note_program, self._keep_idle = self._converse, context.note_program, self.keep_idle

    # One conversation.

    def converse(self, conn: Connection) -> Service:
        """Hold one whole conversation and close, and return whose it was; no error leaves here."""
        offer, base, own_name = self._places[conn.listener]
        base.copy().run(self._held, conn, offer, own_name)
        return offer.service

    def _converse(self, conn: Connection, offer: Offer, own_name: Any) -> None:
        context, error = self.context, None
        service, limits = offer.service, offer.service.limits
        connection_number.set(conn.number)
        conn.start_on(threading.get_native_id(), self._note_program, self._keep_idle, self._tls_starts, own_name)
        if limits.proxied and limits.is_proxy(conn.peer) and not self._introduced(conn, offer):
            self._ended()
            return
        try:
            if service.certificates is not None and service.tls_at_once:
                seconds = service.settings.handshake_timeout
                cast("TlsConnection", conn).shake_hands(service.certificates.context, seconds)
                context.note_handshake()
            service.handler.converse(conn)
        except BaseException as raised:
            error = raised
        try:
            self._end(conn, error, service)
        except BaseException as fault:
            context.fault(fault)
        finally:
            self._ended()

    def _end(self, conn: Connection, error: BaseException | None, service: Service) -> None:
        """The conversation is over: observe why, close, and let go of the descriptor's number."""
        context = self.context
        if not conn.is_own():
            conn.lose()
        if conn.cut_by is not None and not is_peers_fault(conn.cut_by):
            error = conn.cut_by  # of the handler, on another flow
        if conn.lost and (error is None or isinstance(error, OSError)):
            because, error = error, DescriptorLost()
            error.__cause__ = because
        if error is not None:
            context.failed(conn, error)
        if service.handler.facts.blocks:
            conn.measure()
        reason = conn.because(error)
        if conn.cut_by is None:
            conn.linger(until=context.drain.deadline)
        context.let_go_of(conn.fd, conn)
        conn.end()
        context.closed(conn, reason)
        conn.forget()

    def _introduced(self, conn: Connection, offer: Offer) -> bool:
        """Whether a proxy has said for whom it speaks, and no limit is against it; else the connection is closed."""
        context, detail = self.context, ""
        try:
            header = conn.wait_for_header(offer.service.settings.handshake_timeout)
        except TimeoutError:
            limit = TOO_LATE
        except (BadProxyHeader, OSError) as error:
            limit, detail = limit_of(error), str(error)
        else:
            conn.take_header(header)
            limit = context.refusal_of_client(offer, conn.peer)
        if not limit:
            context.observe(ConnectionOpened(conn.number, conn.peer, offer.told, context.id_of(conn.number)))
            return True
        self._give_up(conn)
        end_unserved(conn)
        context.refused(offer, conn.peer, limit, detail)
        return False

    def refuse(self, conn: Connection, limit: str) -> None:
        """Close a connection unserved: there is no flow of control to be had for it."""
        self._give_up(conn)
        self.context.refuse(self.context.offer_of(conn), conn.detach(), conn.peer, limit, admitted=True)

    def forget(self, conn: Connection) -> None:
        """Another process has the connection now: close this process's descriptor of it."""
        self._give_up(conn)
        let_go(conn)

    def _give_up(self, conn: Connection) -> None:
        self.open.pop(conn.number, None)
        self.context.let_go_of(conn.fd, conn)

    # All of them, from beside.

    def look_for_lost(self) -> None:
        """End connections whose descriptor somebody else has closed: their flow of control may wait for it for ever."""
        for conn in list(self.open.values()):
            if not conn.is_own():
                conn.lose()

    def keep_deadlines(self, now: float) -> None:
        """End the connections that are over their time, if it is time for a look."""
        for conn, why in self.timeouts.due(self.open.values(), now):
            if why != AGE:
                cut(conn, PeerTimeout(why))
            elif conn.leave_loop is not None:
                conn.say_goodbye(AGE)
                self._take_leave(conn, now + self.context.drain.timeout)
            elif is_over(conn, now, self.settings.drain_quiet):
                conn.say_goodbye(AGE)
                end_reading(conn)

    def wait(self, now: float) -> float:
        """Seconds until something is to be done beside the conversations."""
        rest = self.timeouts.wait(now)
        if self.context.drain.spread:
            rest = min(rest, 0.0 if self._goodbyes is None else max(0.0, self._goodbyes.next_look - now))
        return rest

    def say_goodbyes(self, now: float) -> None:
        """Say those that are due, where they are spread over the connections."""
        drain = self.context.drain
        if not drain.spread:
            self._goodbyes = None
            return
        if self._goodbyes is None or self._while_draining is not drain.begun:
            self._goodbyes, self._while_draining = self.context.goodbyes(self.told), drain.begun
        if self._goodbyes is not None and now >= self._goodbyes.next_look:
            self.context.look_at_goodbyes(self._goodbyes, self.told, self.tell)

    def _say_goodbye(self, number: int, waited: float) -> Answer:
        """Say goodbye to a connection, if it is at a quiet moment."""
        conn = self.open.get(number)
        if conn is None:
            return SAID
        if conn.leave_loop is not None:
            if not conn.goodbye:
                conn.say_goodbye(End.DRAINING)
                conn.leave_loop(math.inf, self.context.drain.timeout)
            return SAID
        conn.say_goodbye(End.DRAINING)
        if conn.stays:
            return STAYS
        if conn.reading_shut or conn.hears_drain:
            return SAID
        patience = self.context.drain.timeout
        if not is_quiet(conn, time.monotonic(), shrunk(self.settings.drain_quiet, waited, patience)):
            return LATER
        end_reading(conn)
        return SAID

    def keep_idle(self, conn: AnyConnection, seconds: float) -> None:
        """A connection gets an idle timeout of its own. In a process that has no other connection a flow of control
        is started that looks after that."""
        self.timeouts.keep_idle(conn, seconds)
        if self.context.is_child and not self._looks_after:
            _thread.start_new_thread(self.look_after, ())

    def look_after(self) -> None:
        """Keep the deadlines of a connection that has a process of its own, until the connection ends."""
        if self._looks_after:
            return
        self._looks_after = True
        while self.open:
            self._look()
            self.keep_deadlines(time.monotonic())
            time.sleep(min(LOOK, self.wait(time.monotonic())))

    def sweep(self, tick: Tell = nothing) -> None:
        """Until no connection is open: end the reading of those that owe no reply; at the drain deadline cut all."""
        drain = self.context.drain
        while self.open and time.monotonic() < drain.deadline:
            tick()
            self.end_idle()
            self.pause(SWEEP)
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

    def end_idle(self) -> None:
        """End the reading of those that owe no reply."""
        now, drain, quiet = time.monotonic(), self.context.drain, self.settings.drain_quiet
        late = now >= last_call(drain.deadline, drain.timeout)
        if late and drain.spread:
            drain.spread_no_more()
        self.say_goodbyes(now)
        if drain.spread:
            return
        if drain.deadline - now > drain.timeout:  # a child of the fork model, whose worker spreads goodbyes
            self._sweeps_since = min(self._sweeps_since, now)
            for number in list(self.open):
                self._say_goodbye(number, now - self._sweeps_since)
            return
        for conn in list(self.open.values()):
            if conn.leave_loop is not None:
                self._take_leave(conn, drain.deadline)
            elif not (conn.reading_shut or conn.hears_drain or conn.stays) and (late or is_over(conn, now, quiet)):
                end_reading(conn)

    def _take_leave(self, conn: Connection, deadline: float) -> None:
        """Of a conversation on a loop of its own, which knows what it owes: once for each deadline."""
        leave = conn.leave_loop
        if leave is not None and deadline < conn.leaves_by:
            conn.leaves_by = deadline
            leave(deadline, self.context.drain.timeout)

    def await_flows(self) -> None:
        """Give flows of control a moment to notice that their connection was cut."""
        patience = time.monotonic() + LEAVE
        while self.open and time.monotonic() < patience:
            self.pause(SWEEP)

    def pause(self, seconds: float) -> bool:
        """Wait; whether a conversation has ended meanwhile, as far as one can tell."""
        time.sleep(seconds)
        return False
