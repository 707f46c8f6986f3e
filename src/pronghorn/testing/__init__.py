"""Tools for testing handlers: your own ones, and ours under every model.

- `FakeTransport` lets a test hold a conversation with a protocol, without a socket.
- `serving()` starts a real server for the length of a `with` block; `over_tls()` makes a client speak TLS to it.
- `ChaosProxy` is a bad network between a client and a server.
- `check_handler()` tries every promise that the server makes on your handler, `check_model()` every promise on one
  model with the reference handlers. Both raise AssertionError, which names what was broken.

Law: importing this package imports nothing else; a test module that holds handlers is imported by workers too, and
they shall not carry a test's tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pronghorn.testing.chaos import ChaosProxy, Way
    from pronghorn.testing.checks import check_handler, check_model
    from pronghorn.testing.forms import FORMS, Form
    from pronghorn.testing.promises import PROMISES, Promise
    from pronghorn.testing.served import Served, serving
    from pronghorn.testing.subject import Subject
    from pronghorn.testing.talk import exchange, until
    from pronghorn.testing.tls import over_tls
    from pronghorn.testing.transport import FakeTransport

__all__ = [
    "FORMS",
    "PROMISES",
    "ChaosProxy",
    "FakeTransport",
    "Form",
    "Promise",
    "Served",
    "Subject",
    "Way",
    "check_handler",
    "check_model",
    "exchange",
    "over_tls",
    "serving",
    "until",
]

_ROOMS = {
    "FORMS": "forms",
    "Form": "forms",
    "PROMISES": "promises",
    "Promise": "promises",
    "ChaosProxy": "chaos",
    "Way": "chaos",
    "FakeTransport": "transport",
    "Served": "served",
    "serving": "served",
    "Subject": "subject",
    "check_handler": "checks",
    "check_model": "checks",
    "exchange": "talk",
    "until": "talk",
    "over_tls": "tls",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
