"""What a worker answers when its supervisor asks of its open connections, or has some of them ended.

Law: each question is answered once, between two events of the flow of control that reads the line: a part of the rows,
or which connections were cut. Whatever a handler's objects raise, the answer comes and serving goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.blocking import Connection, ConnectionBase, cut
from pronghorn.connection.channel import AnyChannel
from pronghorn.errors import EndedByOperator
from pronghorn.serving.connection_inquiry import MOST_AT_ONCE, Inquiry
from pronghorn.serving.connection_rows import ConnectionRow, Facts
from pronghorn.serving.context import Context
from pronghorn.worker_process.reports import EndConnections, Ended, ListConnections, Listed, Question, Report


class Answers:
    """Answers of one worker; `say` sends one."""

    def __init__(self, context: Context, say: Callable[[Report], None]) -> None:
        self._context, self._say = context, say
        self._inquiries: dict[int, Inquiry] = {}

    def answer(self, question: Question) -> None:
        """Answer a question of the supervisor's. Never raises."""
        self._context.guarded(self._end if isinstance(question, EndConnections) else self._list, question)

    def _list(self, question: Question) -> None:
        rows: list[ConnectionRow] = []
        inquiry = None
        try:
            if isinstance(question, ListConnections):
                while len(self._inquiries) >= MOST_AT_ONCE:  # whoever has asked the oldest has left
                    del self._inquiries[next(iter(self._inquiries))]
                self._inquiries[question.ask] = self._begun(question)
            inquiry = self._inquiries.get(question.ask)
            rows = inquiry.step() if inquiry is not None else []
        except BaseException:
            inquiry = None
            raise
        finally:
            over = inquiry is None or inquiry.over
            if over:
                self._inquiries.pop(question.ask, None)
            self._say(Listed(question.ask, rows, inquiry.matched if inquiry is not None else 0, over))

    def _begun(self, question: ListConnections) -> Inquiry:
        query, now, still = question.query, question.now, self._context.open

        def facts(conn: AnyConnection) -> Facts | None:
            return Facts(conn, now) if still.get(conn.number) is conn else None

        if (apart := self._context.apart) is not None:
            return Inquiry(query, apart.numbers(), lambda number: apart.facts(number, now))
        return Inquiry(query, still.values(), facts)

    def _end(self, question: EndConnections) -> None:
        ended: list[int] = []
        try:
            for number in question.numbers:
                if self._end_one(number):
                    ended.append(number)
        finally:
            self._say(Ended(question.ask, ended))

    def _end_one(self, number: int) -> bool:
        if (apart := self._context.apart) is not None:
            return apart.end(number)
        if (conn := self._context.open.get(number)) is None:
            return False
        end_now(conn)
        return True


def end_now(conn: AnyConnection) -> None:
    """End a connection as a cut does, because the operator says so: its handler learns of it as of a broken one."""
    if isinstance(conn, AnyChannel):
        conn.cut(EndedByOperator())
    elif isinstance(conn, ConnectionBase):
        cut(cast(Connection, conn), EndedByOperator())
