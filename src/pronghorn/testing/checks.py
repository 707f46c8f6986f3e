"""Every promise, tried on a handler of yours, or on a model.

Law: all promises are tried, even after one is broken; one error names all that are broken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pronghorn.errors import PronghornError, nearest
from pronghorn.models import registry
from pronghorn.testing.forms import ANSWERS_AT_ONCE, FORMS, REPEATS, Form
from pronghorn.testing.promises import PROMISES, Promise
from pronghorn.testing.subject import Subject

if TYPE_CHECKING:
    from pronghorn.testing.served import Startable

LOG_SHOWN = 2000


def check_handler(
    handler: Startable,
    question: bytes,
    answer: bytes,
    *,
    model: str = "auto",
    once: bool = False,
    half_close: bool = False,
    tls: bool = False,
    leave_out: Iterable[str] = (),
    **settings: Any,
) -> None:
    """Try on a handler every promise that makes sense for it.

    A client that sends `question`, as bytes on the wire, must read exactly `answer`, however often it asks. Say `once`
    if the handler ends the connection after one answer, and `half_close` if it answers only after the client's last
    word, as filters do. With `tls` all of it happens over TLS, with a throw-away certificate unless the settings name
    one. `handler` and `settings` are as for `serving`. `leave_out` names promises that the handler does not keep by
    intention.

    Raises AssertionError, which names each broken promise and shows the log; PronghornError if the server does not
    start; ValueError for a name in `leave_out` that is none, and for an empty question; MissingExtra if trustme is not
    there to make a certificate.
    """
    if not question:
        raise ValueError("a question has at least one byte")
    left_out = set(leave_out)
    names = [promise.name for promise in PROMISES]
    for wrong in left_out.difference(names):
        raise ValueError(f"There is no promise {wrong!r}. {nearest(wrong, names)}")
    can = {name for name, lacking in ((REPEATS, once), (ANSWERS_AT_ONCE, half_close)) if not lacking}
    with Subject(handler, question, answer, can=frozenset(can), model=model, tls=tls, **settings) as subject:
        _report([fault for each in PROMISES if each.name not in left_out for fault in broken(each, subject)])


def check_model(name: str, forms: Iterable[Form] = FORMS, *, tls: bool = False) -> None:
    """Try every promise on one model with reference handlers of every style, or with some `forms` of them; with `tls`
    over TLS, and then without programs.

    Raises AssertionError, which names each broken promise; MissingExtra if the model cannot run here, or trustme is not
    there to make a certificate; BadSetting if there is no model of this name.
    """
    model = registry.load(name)
    faults = []
    for form in forms:
        if tls and form.style == "program":
            continue
        if form.style in registry.styles(model):
            with Subject.of(form, name, tls=tls) as subject:
                faults += [f"{form.name}: {each}" for promise in PROMISES for each in broken(promise, subject)]
        else:
            faults += refused(form, name)
    _report(faults)


def broken(promise: Promise, subject: Subject) -> list[str]:
    """How a promise is broken, in words; empty if it is kept, or makes no sense for this handler.

    After a broken promise the subject gets a new server, so that one does not break another.
    """
    if not promise.needs <= subject.can:
        return []
    try:
        promise(subject)
    except (AssertionError, OSError) as error:
        subject.end()
        what = f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return [f"{promise.name}: {what}\n{promise.__doc__}\nThe log ends:\n{subject.said_since()[-LOG_SHOWN:]}"]
    return []


def refused(form: Form, model: str) -> list[str]:
    """What is wrong if a model is asked to serve a style that it cannot: empty if that is refused before anything is
    bound, with exit code 2 and the models to choose instead."""
    try:
        with Subject.of(form, model) as subject:
            subject.fresh()
    except PronghornError as error:
        if error.exit_code == 2 and "Choose another --model" in error.hint:
            return []
        return [f"{form.name}: refused with exit code {error.exit_code}: {error}"]
    return [f"{form.name}: served, although {model} does not list {form.style} style"]


def _report(faults: list[str]) -> None:
    if faults:
        raise AssertionError(f"{len(faults)} broken:\n\n" + "\n\n".join(faults))
