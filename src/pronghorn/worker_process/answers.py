"""What a worker answers when its supervisor asks of its open connections, or has some of them ended.

Law: each question is answered once, between two events of the flow of control that reads the line: a part of the rows,
or which connections were cut. Whatever a handler's objects raise, the answer comes and serving goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pronghorn.connection.base import AnyConnection
from pronghorn.serving.connection_inquiry import MOST_AT_ONCE, Apart, Inquiry, end_now
from pronghorn.serving.connection_rows import ConnectionRow, Facts
from pronghorn.serving.context import Context
from pronghorn.worker_process.reports import EndConnections, Ended, ListConnections, Listed, Question, Report


class Answers:
    """Answers of one worker; `say` sends one."""

    def __init__(self, context: Context, say: Callable[[Report], None]) -> None:
        self._context, self._say = context, say
        self._inquiries: dict[int, Inquiry] = {}

    def answer(self, question: Question) -> None:
        """Answer a question of the supervisor's, now or a moment later. Never raises."""
        match question:
            case EndConnections():
                self._context.guarded(self._end, question)
            case ListConnections():
                self._context.guarded(self._list, question)
            case _:
                self._context.guarded(self._go_on, question.ask)

    def _list(self, question: ListConnections) -> None:
        query, now = question.query, question.now
        if (apart := self._context.apart) is not None:
            self._gather(question, apart)
            return

        def facts(conn: AnyConnection) -> Facts | None:
            return Facts(conn, now) if self._is_held(conn) else None

        self._begin(question.ask, Inquiry(query, self._held(), facts))

    def _held(self) -> list[AnyConnection]:
        """The connections of this process: those that are open, and those that wait for their client's first word."""
        still, held = self._context.open, list(self._context.holders.values())
        return [*list(still.values()), *(conn for conn in held if conn.number not in still)]

    def _is_held(self, conn: AnyConnection) -> bool:
        context = self._context
        return context.open.get(conn.number) is conn or context.holders.get(conn.fileno()) is conn

    def _gather(self, question: ListConnections, apart: Apart) -> None:
        """Processes of their own have the connections: they are asked first, those that may be told of."""
        query, now = question.query, question.now
        numbers: Iterable[int] = apart.numbers()
        if not query.needs_details:
            chosen = Inquiry(query, numbers, lambda number: apart.facts(number, now))
            numbers = []
            while not chosen.over:
                numbers += [row.number for row in chosen.step()]

        def begin() -> None:
            found = [apart.facts(number, now) for number in apart.numbers()]
            found += [Facts(conn, now) for conn in self._held()]
            self._begin(question.ask, Inquiry(query, found, lambda facts: facts))

        apart.gather(numbers, begin)

    def _begin(self, ask: int, inquiry: Inquiry) -> None:
        while len(self._inquiries) >= MOST_AT_ONCE:  # whoever has asked the oldest has left
            del self._inquiries[next(iter(self._inquiries))]
        self._inquiries[ask] = inquiry
        self._go_on(ask)

    def _go_on(self, ask: int) -> None:
        rows: list[ConnectionRow] = []
        inquiry = self._inquiries.get(ask)
        try:
            rows = inquiry.step() if inquiry is not None else []
        except BaseException:
            inquiry = None
            raise
        finally:
            over = inquiry is None or inquiry.over
            if over:
                self._inquiries.pop(ask, None)
            self._say(Listed(ask, rows, inquiry.matched if inquiry is not None else 0, over))

    def _end(self, question: EndConnections) -> None:
        ended: list[int] = []
        try:
            for number in question.numbers:
                if self._end_one(number):
                    ended.append(number)
        finally:
            self._say(Ended(question.ask, ended))

    def _end_one(self, number: int) -> bool:
        if (apart := self._context.apart) is not None and apart.end(number):
            return True
        conn = self._context.open.get(number) or next((each for each in self._held() if each.number == number), None)
        if conn is None:
            return False
        end_now(conn)
        return True
