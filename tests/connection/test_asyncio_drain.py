"""A conversation that owes something is left alone by draining: replies that come late arrive, in every way that
handlers have of being late, at a stop and at a reload."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from pronghorn.connection.asyncio_drain import look_at_all
from pronghorn.models import registry
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until
from pronghorn.testing.tls import SealedClient, throw_away_pair, trusting

HANDLERS = "farewells_under_test"
ASYNC = ("asyncio", "uvloop", "epoll", "thread", "fork")
KINDS = {
    "Switch": ("plain", "session", "ack", "stays", "buffered"),
    "streams": ("plain", "two", "ack"),
    "blocking": ("plain", "ack"),
}
FLOWS = ("thread", "fork", "prefork", "gevent")


def needs(model: str) -> None:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")


def late_replies_arrive(
    server: Served,
    kinds: tuple[str, ...],
    how: signal.Signals,
    sealed: Callable[[socket.socket], socket.socket] = lambda sock: sock,
    others: Sequence[tuple[str, ...]] = (),
) -> None:
    """Everybody asks, then the server is told; everybody is answered, and at a stop then finds an end in order.
    `others` are the kinds of further listeners."""
    with ExitStack() as stack:
        clients = []
        for place, each in enumerate((kinds, *others)):
            for question in (f"{kind} {when}\n".encode() for kind in each for when in ("soon", "late")):
                client = stack.enter_context(sealed(server.connect(place)))
                client.sendall(question)
                clients.append((question, client))
        until(lambda: server.log().count("IN HAND") == len(clients), "the questions are in hand")
        server.send_signal(how)
        for question, client in clients:
            answer = (b"wait\n" if question.startswith(b"ack") else b"") + question.upper()
            if how == signal.SIGTERM:
                assert exchange(client) == answer
            else:
                assert exchange(client, expect=len(answer)) == answer


def listeners(handlers: list[str]) -> Any:
    return [{"name": each, "bind": "127.0.0.1:0", "handler": f"{HANDLERS}:{each}"} for each in handlers]


@pytest.mark.parametrize("model", [*ASYNC, *(model for model in FLOWS if model not in ASYNC)])
def test_a_late_reply_arrives_at_a_stop(model: str) -> None:
    """In every style, at a listener of its own."""
    needs(model)
    handlers = [each for each in KINDS if model in (FLOWS if each == "blocking" else ASYNC)]
    settings: Any = {"workers": 4 if model == "prefork" else 1, "drain_quiet": 0.3, "pool_size": 16}
    with serving(f"{HANDLERS}:{handlers[0]}", model=model, listeners=listeners(handlers), **settings) as server:
        first, *others = (KINDS[each] for each in handlers)
        late_replies_arrive(server, first, signal.SIGTERM, others=others)
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return throw_away_pair(str(tmp_path_factory.mktemp("certificate")))


@pytest.mark.parametrize(
    ("handler", "model"),
    [("Switch", "asyncio"), ("streams", "thread"), ("blocking", "fork")],
)
def test_a_late_reply_arrives_over_tls(handler: str, model: str, certificate: dict[str, str]) -> None:
    needs(model)
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, drain_quiet=0.3, **certificate) as server:
        late_replies_arrive(server, KINDS[handler], signal.SIGTERM, lambda sock: SealedClient(sock, trusting()))
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("model", ["epoll", "thread"])
def test_a_late_reply_arrives_after_start_tls(
    model: str, certificate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own TLS, above ours: the handler has asked for it in the middle of the conversation."""
    for name, path in certificate.items():
        monkeypatch.setenv(name.upper(), path)

    def sealed(sock: socket.socket) -> socket.socket:
        assert exchange(sock, b"starttls\n", expect=4) == b"now\n"
        client = SealedClient(sock, trusting())
        assert exchange(client, expect=7) == b"sealed\n"
        return client

    with serving(f"{HANDLERS}:Upgraded", model=model, workers=1, drain_quiet=0.3) as server:
        late_replies_arrive(server, ("plain", "session", "ack"), signal.SIGTERM, sealed)
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.mark.parametrize(("handler", "model"), [("Switch", "asyncio"), ("streams", "thread"), ("blocking", "fork")])
def test_a_late_reply_arrives_at_a_reload(handler: str, model: str) -> None:
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1, drain_quiet=0.3) as server:
        late_replies_arrive(server, KINDS[handler], signal.SIGHUP)


def test_a_look_that_others_interrupted_is_followed_by_the_next_as_soon_as_ever() -> None:
    class Interrupted:
        """A conversation, at whose look others have the processor."""

        def look(self, now: float, tasks: object) -> bool:
            time.sleep(0.05)
            return False

    rest = look_at_all({1: Interrupted()}, time.monotonic())  # type: ignore[dict-item]
    assert rest < 0.5, "a conversation waits for its end for twenty times what others took"


PROGRAM = ("sh", "-c", "while read kind when; do echo wait; sleep 0.9; echo $kind $when; done")


@pytest.mark.parametrize("model", ["thread", "fork", "gevent"])
def test_a_program_that_works_is_left_alone(model: str) -> None:
    """It has acknowledged, and is silent for longer than --drain-quiet, while a process of its own sleeps."""
    needs(model)
    with serving(PROGRAM, model=model, workers=2, drain_quiet=0.3) as server, server.connect() as client:
        assert exchange(client, b"do it\n", expect=5) == b"wait\n"
        assert server.stop() == 0
        assert exchange(client) == b"do it\n"
        assert "Traceback" not in server.log()


STAYS = {
    "stay_message": ("thread", "fork", "epoll", "uvloop"),
    "StayProtocol": ("thread", "gevent", "epoll", "asyncio"),
    "stay_later": ("thread", "epoll"),
    "stay_streams": ("thread", "uvloop"),
    "stay_blocking": ("thread", "fork", "prefork", "gevent"),
}


@pytest.mark.parametrize("model", sorted({model for fit in STAYS.values() for model in fit}))
def test_one_who_asks_to_stay_is_heard_until_it_ends(model: str) -> None:
    """`stay()` is the same for every style."""
    needs(model)
    handlers = [each for each, fit in STAYS.items() if model in fit]
    with (
        serving(
            f"{HANDLERS}:{handlers[0]}", model=model, listeners=listeners(handlers), workers=2, drain_quiet=0.1
        ) as server,
        ExitStack() as stack,
    ):
        until(lambda: server.log().count("is ready") == 2, "two workers: under prefork one serves one client")
        clients = [stack.enter_context(server.connect(place)) for place in range(len(handlers))]
        others = [stack.enter_context(server.connect(place)) for place in range(len(handlers))]  # who do not ask
        for handler, client in zip(handlers, clients, strict=True):
            assert exchange(client, b"one\n", expect=6) == b"0 ONE\n", handler
        server.send_signal(signal.SIGTERM)
        for handler, client, other in zip(handlers, clients, others, strict=True):
            assert exchange(other) == b"", handler
            assert exchange(client, b"two\n", expect=6) == b"1 TWO\n", handler
            assert exchange(client, b"quit\n") == b"1 QUIT\n", handler
        assert server.wait() == 0
        assert "Traceback" not in server.log()


HEARS = {
    "hears_streams": ("thread", "fork", "uvloop"),
    "hears_blocking": ("thread", "fork", "gevent"),
    "hears_in_lifespan": ("epoll", "uvloop"),
}


@pytest.mark.parametrize(("handler", "model"), [(handler, model) for handler, fit in HEARS.items() for model in fit])
def test_a_handler_can_wait_for_the_drain(handler: str, model: str) -> None:
    needs(model)
    with serving(f"{HANDLERS}:{handler}", model=model, workers=1) as server, server.connect() as client:
        assert exchange(client, expect=6) == b"hello\n"
        server.send_signal(signal.SIGTERM)
        assert exchange(client) == b"goodbye\n"
        assert server.wait() == 0
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("model", ["asyncio", "uvloop", "epoll", "thread", "fork", "iterative"])
def test_a_coroutine_is_cancelled_at_the_drain_deadline(model: str) -> None:
    """Its `finally` runs, and says what it has to say; then the lifespan is left. The log says whom it has cost."""
    needs(model)
    lived = model in ("asyncio", "uvloop", "epoll")
    handler = "never_ends_with_lifespan" if lived else "never_ends"
    with (
        serving(f"{HANDLERS}:{handler}", model=model, workers=1, drain_timeout=0.3) as server,
        server.connect() as client,
    ):
        assert exchange(client, expect=6) == b"hello\n"
        port = client.getsockname()[1]
        server.send_signal(signal.SIGTERM)
        assert exchange(client) == b"goodbye\n"
        assert server.wait() == 6
        log = server.log()
        assert "the handler's finally is done" in log
        assert ("the lifespan ends, its task lives" in log) is lived
        assert re.search(rf"cut 1 connection of asyncio style .*: 127\.0\.0\.1 at PORT {port} after \d+\.\d s", log)
        assert "Traceback" not in log
        assert "was killed" not in log
