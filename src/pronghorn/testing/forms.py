"""The reference handlers, and what each of them can do.

Law: a form is data only. `can` says which promises make sense: a promise names what it needs of a handler, and is not
tried where that is missing.
"""

from __future__ import annotations

import msgspec

from pronghorn.framing import Framing, lines, prefixed, stream
from pronghorn.settings.source import Source

REPEATS = "repeats"
"""It answers any number of questions on one connection."""
ANSWERS_AT_ONCE = "answers at once"
"""It answers before the client has said its last word; a filter that buffers its output does not."""
PAYLOADS = "payloads"
"""It answers any payload in upper case, whatever its bytes."""
WORDS = "words"
"""It raises at RAISE, leaves by SystemExit at EXIT, sends 8 MiB at BIG, and takes its time at SLOW."""
CLOSES = "closes"
"""It closes the connection after its answer to BYE."""
CUTS = "cuts"
"""It gets whole messages, cut by a framing with marks or lengths, and no longer ones than --max-message-size."""
FINISHES = "finishes"
"""A message of which a part has come when draining begins may still be finished, and is answered."""

CALLS = "calls"
"""It is called back by a timer at TIMER and EVERY, and has another thread send at THREAD."""
TOLD = "told"
"""It greets who says GREET by what it was told when it was connected, and after WATCH writes to standard error why the
connection ended."""

ORDINARY = frozenset({REPEATS, ANSWERS_AT_ONCE, PAYLOADS, WORDS})


class Form(msgspec.Struct, frozen=True):
    """One reference handler: its style, where it comes from, and how to talk to it."""

    name: str
    style: str
    source: Source
    framing: Framing = stream
    """How a client writes a payload, and finds the answer written."""
    can: frozenset[str] = ORDINARY


def _form(name: str, style: str, attribute: str, framing: Framing = stream, *more: str) -> Form:
    module = "reference_asyncio" if style == "asyncio" else "reference"
    source = Source(name=f"pronghorn.testing.{module}:{attribute}")
    return Form(name, style, source, framing, ORDINARY | set(more))


FORMS = (
    _form("message", "message", "upper_lines", lines, CUTS, FINISHES),
    _form("message-stream", "message", "upper_stream"),
    _form("message-prefixed", "message", "upper_prefixed", prefixed(4), CUTS, FINISHES, CLOSES),
    _form("message-class", "message", "UpperEach", lines, CUTS, FINISHES, CLOSES, CALLS, TOLD),
    _form("message-async", "asyncio", "UpperAsyncEach", lines, CUTS, CLOSES, CALLS, TOLD),
    _form("conversation", "asyncio", "upper_conversation", lines, CUTS, CLOSES, CALLS),
    _form("protocol", "protocol", "UpperProtocol", stream, CLOSES),
    _form("asyncio-protocol", "asyncio", "UpperAsyncioProtocol", stream, CLOSES),
    _form("streams", "asyncio", "upper_streams", stream, CLOSES),
    _form("blocking", "blocking", "upper_blocking", stream, CLOSES),
    _form("socketserver", "blocking", "UpperStreamRequestHandler", lines, CLOSES),
    Form("program", "program", Source(command=("tr", "a-z", "A-Z")), can=frozenset({REPEATS, PAYLOADS})),
)
"""Every style, in the forms that users write it in. The program is `tr a-z A-Z`, which answers at its input's end."""
