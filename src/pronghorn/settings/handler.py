"""Settings of the handler: its style, and its messages."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import Option
from pronghorn.settings.model import Model

STYLES = tuple("auto message protocol asyncio blocking program".split())


class Handler(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the handler is found out, and what a message is."""

    style: Annotated[
        str, "Convention that the handler follows; auto recognises it.", Option(choices=STYLES, own=True)
    ] = "auto"
    framing: Annotated[
        str,
        "Rule that cuts bytes into messages: stream (as they come), lines, delimited(MARK), prefixed(BYTES): a length "
        "of so many bytes first; varint, marked(START, END), octet_counted, netstring, counted(END), fixed(SIZE).",
        Option(metavar="RULE", own=True),
    ] = ""
    max_message_size: Annotated[
        int,
        "Longest message, its mark or prefix not counted; a longer one ends its connection.",
        Option(unit="size", ge=1, own=True),
    ] = 1024 * 1024
    factory: Annotated[
        bool, "HANDLER is called once in each worker, and what it returns is the handler.", Option(own=True)
    ] = False
