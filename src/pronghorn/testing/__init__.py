"""Tools for testing handlers: your own, and the reference handlers under every model.

- `FakeTransport` lets a test hold a conversation with a protocol, without a socket.
- `serving()` starts a real server for the length of a `with` block; `over_tls()` makes a client speak TLS to it.
- `ChaosProxy` is a bad network between a client and a server.
- `check_handler()` tries every promise that the server makes on your handler, `check_model()` every promise on one
  model with the reference handlers. Both raise AssertionError, which names what was broken.
- `check_framing()` tries a framing in every split, at its limits and with garbage, without a server.

Law: importing this package imports nothing else: a test module that holds handlers is imported by workers too, and a
worker carries no test's tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pronghorn import on_first_use

if TYPE_CHECKING:
    from pronghorn.testing.chaos import ChaosProxy as ChaosProxy
    from pronghorn.testing.chaos import Way as Way
    from pronghorn.testing.checks import check_handler as check_handler
    from pronghorn.testing.checks import check_model as check_model
    from pronghorn.testing.forms import FORMS as FORMS
    from pronghorn.testing.forms import Form as Form
    from pronghorn.testing.framings import check_framing as check_framing
    from pronghorn.testing.promises import PROMISES as PROMISES
    from pronghorn.testing.promises import Promise as Promise
    from pronghorn.testing.served import Served as Served
    from pronghorn.testing.served import serving as serving
    from pronghorn.testing.subject import Subject as Subject
    from pronghorn.testing.talk import exchange as exchange
    from pronghorn.testing.talk import until as until
    from pronghorn.testing.tls import over_tls as over_tls
    from pronghorn.testing.transport import FakeTransport as FakeTransport
else:
    __getattr__, __dir__ = on_first_use(
        globals(),
        {
            "chaos": "ChaosProxy Way",
            "checks": "check_handler check_model",
            "forms": "FORMS Form",
            "framings": "check_framing",
            "promises": "PROMISES Promise",
            "served": "Served serving",
            "subject": "Subject",
            "talk": "exchange until",
            "tls": "over_tls",
            "transport": "FakeTransport",
        },
    )
