"""A conversation that owes something is left alone by draining: replies that come late arrive, in every way that
handlers have of being late, at a stop and at a reload."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from pronghorn import models
from pronghorn.testing import Served, exchange, serving, until

HANDLERS = "farewells_under_test"
ASYNC = ("asyncio", "uvloop", "epoll", "poll", "select", "thread", "pool", "fork")
KINDS = {
    "Switch": ("plain", "session", "stays", "buffered"),
    "streams": ("plain", "two", "ack"),
    "blocking": ("plain", "ack"),
}
FLOWS = ("thread", "pool", "fork", "prefork", "gevent")


def needs(model: str) -> None:
    missing = models.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")


def late_replies_arrive(server: Served, kinds: tuple[str, ...], how: signal.Signals) -> None:
    """Everybody asks, then the server is told; everybody is answered, and then finds an end in order."""
    with ExitStack() as stack:
        clients = {}
        for question in (f"{kind} {when}\n".encode() for kind in kinds for when in ("soon", "late")):
            clients[question] = stack.enter_context(server.connect())
            clients[question].sendall(question)
        until(server.is_at_rest, "the questions are in hand")
        server.send_signal(how)
        for question, client in clients.items():
            answer = (b"wait\n" if question.startswith(b"ack") else b"") + question.upper()
            if how == signal.SIGTERM:
                assert exchange(client) == answer
            else:
                assert exchange(client, expect=len(answer)) == answer


PAIRS = [(handler, model) for handler in KINDS for model in (FLOWS if handler == "blocking" else ASYNC)]


@pytest.mark.parametrize(("handler", "model"), PAIRS)
def test_a_late_reply_arrives_at_a_stop(handler: str, model: str) -> None:
    needs(model)
    workers = 4 if model == "prefork" else 1
    with serving(f"{HANDLERS}:{handler}", model=model, workers=workers, drain_quiet=0.3, pool_size=16) as server:
        late_replies_arrive(server, KINDS[handler], signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log()


PROGRAM = ("sh", "-c", "while read kind when; do echo wait; sleep 0.9; echo $kind $when; done")


@pytest.mark.parametrize("model", FLOWS)
def test_a_program_that_works_is_left_alone(model: str) -> None:
    """It has acknowledged, and is silent for longer than --drain-quiet, while a process of its own sleeps."""
    needs(model)
    with serving(PROGRAM, model=model, workers=2, drain_quiet=0.3) as server, server.connect() as client:
        assert exchange(client, b"do it\n", expect=5) == b"wait\n"
        assert server.stop() == 0
        assert exchange(client) == b"do it\n"
        assert "Traceback" not in server.log()
