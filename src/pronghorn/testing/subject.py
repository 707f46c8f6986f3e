"""What a promise is tried on: a handler under one model, a question, and its right answer.

Law: a subject talks to the handler and keeps a server running for it; it knows no promise. After a promise has ended
the server, or may have broken it, the next promise gets a new server.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pronghorn.framing import Framing, stream
from pronghorn.models import registry
from pronghorn.system.processors import processors
from pronghorn.testing.forms import ANSWERS_AT_ONCE, PAYLOADS, REPEATS, Form
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, shown
from pronghorn.testing.tls import SealedClient, throw_away_pair, trusting

if TYPE_CHECKING:
    from pronghorn.testing.served import Startable

ENOUGH = 1_000_000  # descriptors: as if there were no limit
QUESTION = b"every herd has one that keeps watch"
FAILED = "Handler failed on connection "


class Subject:
    """A handler under one model, served at 127.0.0.1, at ::1 where the host has it, and at a unix socket.

    `question` is what a client sends, as bytes on the wire, and `answer` what it then reads; `can` says what else the
    handler does (the words of `pronghorn.testing.forms`), and `framing` how payloads are written if it takes any.
    With `tls` the server has a throw-away certificate. The rest are settings; if they name a certificate, clients
    speak TLS. For the length of a `with` block.
    """

    def __init__(
        self,
        handler: Startable,
        question: bytes,
        answer: bytes,
        *,
        can: frozenset[str],
        framing: Framing = stream,
        model: str = "auto",
        tls: bool = False,
        **settings: Any,
    ) -> None:
        self.handler = handler
        self.question = question
        self.answer = answer
        self.can = can
        self.framing = framing
        self.failures = 0
        """How often the handler of the present server was asked to fail."""
        self._model = model
        self._settings = settings
        self._server: Served | None = None
        self._last: Served | None = None
        self._serving = contextlib.ExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="pronghorn-", ignore_cleanup_errors=True)
        self.unix_path = os.path.join(self._folder.name, "socket")
        self._next = 0
        self._context = trusting()
        if tls and "tls_cert" not in settings:
            self._settings |= throw_away_pair(self._folder.name)

    @classmethod
    def of(cls, form: Form, model: str, *, tls: bool = False) -> Subject:
        """A reference handler under a model."""
        question, answer = form.framing.frame(QUESTION), form.framing.frame(QUESTION.upper())
        return cls(form.source, question, answer, can=form.can, framing=form.framing, model=model, tls=tls)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._folder.cleanup()

    # The server.

    @property
    def server(self) -> Served:
        """The server that runs; a new one if there is none."""
        if self._server is None or not self._server.running:
            return self.fresh()
        return self._server

    def fresh(self, **settings: Any) -> Served:
        """End the server and start another, with these settings besides."""
        self.end()
        self.failures = 0
        bind = ["127.0.0.1:0", f"unix:{self.unix_path}"]
        if has_ipv6():
            bind.insert(1, "[::1]:0")
        keywords: dict[str, Any] = {"model": self._model, "bind": bind, **self._settings, **settings}
        self._server = self._last = self._serving.enter_context(serving(self.handler, **keywords))
        return self._server

    def end(self) -> None:
        """End the server at once."""
        self._server = None
        self._serving.close()

    @property
    def at_once(self) -> int:
        """How many conversations the server holds at the same time."""
        settings, name = self.server.settings, self.server.model
        each, _ = registry.page(name).capacity(settings, ENOUGH)
        return each * settings.effective_workers(name, processors().usable)

    # Talking to it.

    def connect(self, index: int | None = None, *, receive_buffer: int = 0) -> socket.socket:
        """A new client; without an index each goes to the next of the addresses."""
        server = self.server
        if index is None:
            self._next += 1
            index = self._next % len(server.addresses)
        client = server.connect(index, receive_buffer=receive_buffer)
        return SealedClient(client, self._context) if server.settings.tls_cert else client

    def pair(self, payload: bytes | None = None) -> tuple[bytes, bytes]:
        """Question and answer: the subject's own, or for a payload if it takes any."""
        if payload is None:
            return self.question, self.answer
        assert self.can >= {PAYLOADS}, "this handler takes no payloads"
        return self.framing.frame(payload), self.framing.frame(payload.upper())

    @property
    def talks_on(self) -> bool:
        """Whether a client can get an answer and ask again."""
        return self.can >= {REPEATS, ANSWERS_AT_ONCE}

    def ask(self, client: socket.socket, payload: bytes | None = None, *, end: bool = False) -> None:
        """Ask and get the answer, on the whole connection if it serves for one only, or to the `end`."""
        question, answer = self.pair(payload)
        if end or not self.talks_on:
            got = exchange(client, question, end=end or ANSWERS_AT_ONCE not in self.can)
        else:
            got = exchange(client, question, expect=len(answer))
        self.expect(got, answer)

    def say(self, client: socket.socket, question: bytes | None = None, *, end: bool = False) -> None:
        """Send a short question, and what has to follow before it is answered."""
        client.sendall(self.question if question is None else question)
        if end or ANSWERS_AT_ONCE not in self.can:
            client.shutdown(socket.SHUT_WR)

    def visit(self) -> None:
        """A new client comes, gets its answer, and leaves."""
        with self.connect() as client:
            self.ask(client)

    @contextlib.contextmanager
    def bystander(self) -> Iterator[None]:
        """Another client, which is in a conversation meanwhile if the model can do that, and is answered afterwards."""
        if self.at_once < 2:
            yield
            self.visit()
            return
        with self.connect() as client:
            if self.talks_on:
                self.ask(client)
            yield
            self.ask(client)

    @staticmethod
    def expect(got: bytes, wanted: bytes) -> None:
        """Raises AssertionError unless both are the same."""
        assert got == wanted, f"expected {shown(wanted)}, got {shown(got)}"

    # What it says.

    def mark(self) -> int:
        """A place in the log, for `said_since`."""
        return len(self.server.log())

    def said_since(self, mark: int = 0) -> str:
        """What the log says since then; of the last server, if none runs."""
        return self._last.log()[mark:] if self._last is not None else ""


def has_ipv6() -> bool:
    """Whether ::1 can be bound here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
