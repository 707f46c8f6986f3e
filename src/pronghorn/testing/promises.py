"""What the server promises of every handler under every model, each with the check that tries it.

Law: a promise is about what a client can see, the log, processes and memory, and about nothing inside the server. A
promise waits for conditions, each with a deadline, and leaves the server as it was, or ended.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack

from pronghorn.connection.socket_facts import unsent
from pronghorn.testing.forms import CALLS, CLOSES, CUTS, FINISHES, PAYLOADS, REPEATS, TOLD, WORDS
from pronghorn.testing.reference import BIG, SENT_BY_A_THREAD, big_answer
from pronghorn.testing.subject import FAILED, Subject
from pronghorn.testing.talk import SMALL_BUFFER, exchange, flood, reset, until

MIB = 1024 * 1024
CLIENTS = 100
MOST_GROWTH = 16 * MIB
MOST_TAKEN = 64 * MIB
WARMING = 4 * MIB  # pages that a worker comes to hold for itself alone with its first conversations
DRAIN_TIMEOUT = 0.1


class Promise:
    """One promise: its `name`, a sentence as docstring, and what it `needs` of a handler (`pronghorn.testing.forms`).

    Called with a Subject, it returns if the promise is kept, and raises AssertionError or OSError if it is broken.
    """

    def __init__(self, check: Callable[[Subject], None], needs: frozenset[str]) -> None:
        self.name = check.__name__
        self.__doc__ = check.__doc__
        self.needs = needs
        self._check = check

    def __repr__(self) -> str:
        return f"<Promise {self.name}>"

    def __call__(self, subject: Subject) -> None:
        self._check(subject)


_promises: list[Promise] = []


def promise(*needs: str) -> Callable[[Callable[[Subject], None]], Promise]:
    def register(check: Callable[[Subject], None]) -> Promise:
        _promises.append(Promise(check, frozenset(needs)))
        return _promises[-1]

    return register


# What a client sends and reads.


@promise()
def answers_on_every_address(subject: Subject) -> None:
    """A client is answered over IPv4, IPv6 and a unix socket alike."""
    for index in range(len(subject.server.addresses)):
        with subject.connect(index) as client:
            subject.ask(client)


@promise()
def split_writes_change_nothing(subject: Subject) -> None:
    """A question that arrives in pieces, down to single bytes, is answered as if it had come whole."""
    step = max(1, len(subject.question) // 64)
    pieces = [subject.question[at : at + step] for at in range(0, len(subject.question), step)]
    with subject.connect(len(subject.server.addresses) - 1) as client:
        for piece in pieces[:-1]:
            client.sendall(piece)
            until(lambda: not unsent(client), "the server reads a piece")  # of a unix socket: what is unread
        subject.say(client, pieces[-1])
        expect = len(subject.answer) if subject.talks_on else None
        subject.expect(exchange(client, expect=expect), subject.answer)


@promise(REPEATS)
def merged_writes_change_nothing(subject: Subject) -> None:
    """Questions that arrive at once are answered one by one, in order."""
    with subject.connect() as client:
        got = exchange(client, subject.question * 7, end=True)
        subject.expect(got, subject.answer * 7)


@promise(PAYLOADS)
def long_messages_arrive_whole(subject: Subject) -> None:
    """A message of 1 MiB is answered with 1 MiB."""
    with subject.connect() as client:
        subject.ask(client, b"pronghorn" * (MIB // 9) + b"pronghorn"[: MIB % 9])


@promise(PAYLOADS)
def every_byte_is_a_byte(subject: Subject) -> None:
    """All 256 bytes pass, but for those that the framing means something by."""
    payload = bytes(each for each in range(256) if bytes([each]) not in subject.framing.frame(b""))
    with subject.connect() as client:
        subject.ask(client, payload * 3)


@promise()
def half_close_gets_its_reply(subject: Subject) -> None:
    """A client that has said its last word still gets its whole answer, and then the end; if it asked nothing, the
    end alone."""
    with subject.connect() as client:
        subject.ask(client, end=True)
    if PAYLOADS in subject.can:
        with subject.connect() as silent:
            subject.expect(exchange(silent, end=True), b"")
    if WORDS in subject.can:
        with subject.connect() as client:
            got = exchange(client, subject.framing.frame(b"BIG"), end=True)
            subject.expect(got, subject.framing.frame(big_answer()))


@promise()
def a_hundred_clients_overlap(subject: Subject) -> None:
    """A hundred clients are connected at the same time, and each gets its own answer; where fewer conversations are
    held at once, they send, half-close, and wait for each other."""
    with ExitStack() as stack:
        clients = [stack.enter_context(subject.connect()) for _ in range(CLIENTS)]
        overlap = subject.talks_on and subject.at_once >= CLIENTS
        for _ in range(2 if overlap else 1):
            for client in clients:
                subject.say(client, end=not overlap)
            for client in reversed(clients) if overlap else clients:
                got = exchange(client, expect=len(subject.answer) if overlap else None)
                subject.expect(got, subject.answer)


# What comes unasked, and the end.


@promise(CALLS)
def timers_and_other_threads_send(subject: Subject) -> None:
    """What a timer sends arrives, until it is cancelled; what another thread sends arrives whole, in its order."""
    frame = subject.framing.frame
    ticks = [b"TICK 1", b"TICK 2", b"TICK 3"]
    with subject.connect() as client:
        for word, expected in ((b"TIMER", [b"TIMED"]), (b"EVERY", ticks), (b"THREAD", SENT_BY_A_THREAD)):
            wanted = b"".join(map(frame, expected))
            subject.expect(exchange(client, frame(word), expect=len(wanted)), wanted)
        subject.ask(client)


@promise(TOLD)
def a_handler_is_told_of_its_connection_and_of_its_end(subject: Subject) -> None:
    """It is told when the connection is there, before any message, and once why it ended, whoever ended it."""
    frame = subject.framing.frame
    with subject.connect() as client:
        exchange(client, frame(b"GREET"), expect=len(b"welcome"))
    for how in ("done", "reset"):
        mark = subject.mark()
        with subject.connect(0) as client:  # over TCP: a unix socket knows no reset
            subject.ask(client, b"watch")
            subject.expect(exchange(client, frame(b"WATCH"), expect=6), frame(b"WATCH"))
            if how == "reset":
                reset(client)
        _was_told(subject, mark, how)


def _was_told(subject: Subject, mark: int, how: str) -> None:
    until(lambda: "closed: " in subject.said_since(mark), "the handler is told of the end")
    told = re.findall(r"closed: (\w+)", subject.said_since(mark))
    assert told == [how], f"it was told {told}"


# What others do.


@promise()
def a_reset_harms_nobody_else(subject: Subject) -> None:
    """A client that resets its connection, at once or in the middle of a reply, leaves the others served, and no
    traceback."""
    mark = subject.mark()
    with subject.bystander():
        for index in range(len(subject.server.addresses)):
            client = subject.connect(index, receive_buffer=SMALL_BUFFER)
            try:
                if WORDS in subject.can:
                    exchange(client, subject.framing.frame(b"BIG"), expect=1024)
                else:
                    client.sendall(subject.question)
            finally:
                reset(client)
            reset(subject.connect(index))
        subject.visit()
    subject.visit()
    said = subject.said_since(mark)
    assert FAILED not in said and "Traceback" not in said, f"the log says: {said}"


@promise(WORDS)
def a_handler_that_raises_loses_its_own_connection_only(subject: Subject) -> None:
    """Its connection is closed; the error is logged once, with the connection's number; the others are untouched."""
    _fail(subject, b"RAISE", "ValueError: asked to raise")


@promise(WORDS)
def a_handler_that_exits_loses_its_own_connection_only(subject: Subject) -> None:
    """SystemExit in a handler is a fault of the handler like any other: its worker lives on."""
    _fail(subject, b"EXIT", "SystemExit: 3")


def _fail(subject: Subject, word: bytes, error: str) -> None:
    server, mark = subject.server, subject.mark()
    workers = server.worker_pids()
    subject.failures += 1
    with subject.bystander(), subject.connect() as victim:
        subject.ask(victim)
        subject.expect(exchange(victim, subject.framing.frame(word)), b"")
        if subject.at_once > 2:
            subject.visit()
    subject.visit()
    until(lambda: FAILED in subject.said_since(mark), "the error is in the log")
    said = subject.said_since(mark)
    assert said.count(FAILED) == 1, f"it is logged {said.count(FAILED)} times: {said}"
    assert re.search(FAILED + r"[\d-]+ from .*" + error, said), f"the log says: {said}"
    assert server.worker_pids() == workers, "a worker has died"


@promise(REPEATS)
def a_client_that_never_reads_fills_no_memory(subject: Subject) -> None:
    """While a client reads nothing, its conversation pauses; others go on; once it reads, it finds all its answers."""
    question, answer = subject.pair(b"pronghorn " * 100 if PAYLOADS in subject.can else None)
    server = subject.server
    with subject.connect(receive_buffer=SMALL_BUFFER) as deaf:
        if subject.talks_on:
            subject.ask(deaf)
        before = server.memory()
        sent, rest = flood(deaf, question, MOST_TAKEN, server.is_at_rest)
        grown = server.memory() - before
        assert grown <= MOST_GROWTH + len(server.worker_pids()) * WARMING, (
            f"its memory grew by {grown / MIB:.1f} MiB after {sent / MIB:.1f} MiB of questions"
        )
        if subject.at_once > 1:
            subject.visit()
        count = -(-sent // len(question))
        subject.expect(exchange(deaf, rest, end=True), answer * count)
    subject.visit()


@promise(CUTS, WORDS)
def large_answers_to_small_questions_fill_no_memory(subject: Subject) -> None:
    """Questions that come together are answered as fast as the client reads, not as fast as they come."""
    count, server = 10, subject.server
    with subject.connect(receive_buffer=SMALL_BUFFER) as client:
        subject.ask(client)
        before = server.memory()
        exchange(client, subject.framing.frame(b"BIG") * count, expect=1024)
        if subject.at_once > 1:
            subject.visit()
        grown = server.memory() - before
        assert grown <= 5 * BIG, f"its memory grew by {grown / MIB:.1f} MiB"
    subject.visit()


# How a connection ends.


@promise(CLOSES, WORDS)
def closing_never_cuts_a_reply(subject: Subject) -> None:
    """A reply arrives whole, and then the end, although the server closes while input is unread."""
    for index in range(len(subject.server.addresses)):
        with subject.connect(index) as client:
            got = exchange(client, subject.framing.frame(b"BIG BYE") + b"\0" * (MIB // 2))
            subject.expect(got, subject.framing.frame(big_answer()))


@promise(CLOSES)
def a_client_that_stays_after_the_end_holds_nobody_up(subject: Subject) -> None:
    """The server closes for good once its end is acknowledged, although the client keeps its own side open."""
    with subject.connect() as client:
        question, answer = subject.pair(b"BYE")
        subject.expect(exchange(client, question), answer)
        for _ in subject.server.addresses:
            subject.visit()


@promise(CUTS)
def a_message_too_long_closes_its_connection_only(subject: Subject) -> None:
    """What came before is answered, the connection ends, and nobody else is touched."""
    mark = subject.mark()
    limit = subject.server.settings.max_message_size
    with subject.bystander(), subject.connect() as client:
        got = exchange(client, subject.question + subject.framing.frame(b"x" * (limit + 1)), reset_ends=True)
        subject.expect(got, subject.answer)
    until(lambda: "MessageTooLong" in subject.said_since(mark), "the log says MessageTooLong")
    said = subject.said_since(mark)
    assert FAILED not in said and "Traceback" not in said, f"the log says: {said}"


# How the server ends. These come last, for they end it.


@promise()
def draining_answers_what_was_asked(subject: Subject) -> None:
    """TERM: idle connections end, a question in flight is answered, one half sent may be finished; exit status 0."""
    server = subject.server
    busy_question, busy_answer = subject.pair(b"SLOW then" if WORDS in subject.can else None)
    with ExitStack() as stack:
        idle = stack.enter_context(subject.connect())
        if subject.talks_on:
            subject.ask(idle)
        busy, partial = (stack.enter_context(subject.connect()) for _ in range(2))
        if FINISHES in subject.can:
            partial.sendall(subject.question[:7])
        subject.say(busy, busy_question)
        server.send_signal(signal.SIGTERM)
        ends = exchange(idle)
        if FINISHES in subject.can:
            subject.expect(exchange(partial, subject.question[7:]), subject.answer)
        else:
            ends += exchange(partial)
        assert PAYLOADS not in subject.can or not ends, f"who asked nothing got {ends!r}"
        subject.expect(exchange(busy), busy_answer)
        assert (status := server.wait()) == 0, f"the exit status is {status}"
    _left_nothing(subject)


def _left_nothing(subject: Subject) -> None:
    log = subject.said_since()
    said = log.count(FAILED)
    assert said == subject.failures, f"{said} errors of the handler are logged, {subject.failures} were caused: {log}"
    assert log.count("Traceback") == said and "fault of the server" not in log, f"the log says: {log}"
    assert not os.path.exists(subject.unix_path), "the unix socket is left behind"


@promise(REPEATS)
def the_drain_deadline_cuts(subject: Subject) -> None:
    """What is not finished by then is cut and counted, and the exit status is 6."""
    server = subject.fresh(drain_timeout=DRAIN_TIMEOUT)
    with subject.connect(receive_buffer=SMALL_BUFFER) as deaf:
        if WORDS in subject.can:
            exchange(deaf, subject.framing.frame(b"BIG"), expect=1024)
        elif flood(deaf, subject.question, MOST_TAKEN, server.is_at_rest)[0] >= MOST_TAKEN:
            return  # its answers are so short that the kernel takes them all: there is nothing to cut
        began = time.monotonic()
        assert (status := server.stop()) == 6, f"the exit status is {status}"
        assert time.monotonic() - began >= DRAIN_TIMEOUT, "it was cut before the deadline"
    assert "1 cut by the drain deadline" in server.log(), f"the log does not count it: {server.log()}"


PROMISES = tuple(_promises)
"""Every promise, in the order in which they are tried on one server."""
