"""Every promise, on all models and styles, over real sockets: the matrix.

One server per pair of model and style; it listens at an IPv4 address, an IPv6 address and a unix socket at once, and
all promises are tried on it. The pairs that cannot be are refused, and each refusal is a test too. Which ones these are
is written out here, so that a model cannot excuse itself. Then the same with TLS, for two styles of each model; there
a client takes an end without a close_notify for a broken connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pronghorn.models import registry
from pronghorn.testing.checks import broken, refused
from pronghorn.testing.forms import FORMS, Form
from pronghorn.testing.promises import PROMISES, Promise
from pronghorn.testing.subject import Subject

LOOPS = ("select", "poll", "epoll", "kqueue", "asyncio", "uvloop")
MODELS = ("iterative", "fork", "prefork", "thread", "pool", *LOOPS, "gevent")


def possible(model: str, form: Form) -> bool:
    if model in LOOPS:
        return form.style not in ("blocking", "program")
    return model != "gevent" or form.style != "asyncio"


# A conversation differs from a message class with coroutines in what calls it, which is tried under two models.
ONLY_UNDER = {"conversation": ("asyncio", "thread")}

NAMED = {
    f"{model}-{form.name}": (model, form)
    for model in MODELS
    for form in FORMS
    if model in ONLY_UNDER.get(form.name, MODELS)
}
CASES = [
    pytest.param(name, promise, id=f"{name}-{promise.name}")
    for name, (model, form) in NAMED.items()
    if possible(model, form)
    for promise in PROMISES
    if promise.needs <= form.can
]

# With TLS each model in the message style, and in the one that is furthest from it; programs cannot have it at all.
TLS = "-tls"
FURTHEST = {"select": "protocol", "poll": "asyncio-protocol", "kqueue": "protocol"} | dict.fromkeys(
    ("epoll", "asyncio", "uvloop"), "streams"
)
WITH_TLS = [
    pytest.param(f"{model}-{form.name}{TLS}", promise, id=f"{model}-{form.name}{TLS}-{promise.name}")
    for model in MODELS
    for form in FORMS
    if form.name in ("message-prefixed", FURTHEST.get(model, "blocking"))
    for promise in PROMISES
    if promise.needs <= form.can
]


def available(model: str) -> str:
    missing = registry.page(model).missing()
    if missing is not None:
        pytest.skip(f"{model}: {missing}")
    return model


class Present:
    """The subject whose promises are being tried; the next one takes its place."""

    def __init__(self) -> None:
        self.name = ""
        self._subject = ExitStack()

    def become(self, name: str) -> Subject:
        if name != self.name:
            self.end()
            model, form = NAMED[name.removesuffix(TLS)]
            subject = Subject.of(form, available(model), tls=name.endswith(TLS))
            self.subject = self._subject.enter_context(subject)
            self.name = name
        return self.subject

    def end(self) -> None:
        self.name = ""
        self._subject.close()


@pytest.fixture(scope="module")
def present() -> Iterator[Present]:
    present = Present()
    yield present
    present.end()


@pytest.mark.parametrize(("name", "promise"), [*CASES, *WITH_TLS])
def test_promise(present: Present, name: str, promise: Promise) -> None:
    told = broken(promise, present.become(name))
    assert not told, told[0]


@pytest.mark.parametrize("name", [name for name, pair in NAMED.items() if not possible(*pair)])
def test_refused(name: str) -> None:
    model, form = NAMED[name]
    assert not refused(form, available(model))


def test_every_model_is_in_the_matrix() -> None:
    assert set(registry.MODELS) == set(MODELS)
