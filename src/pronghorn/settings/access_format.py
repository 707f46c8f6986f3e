"""The format of the access log: named fields between braces, `{peer} {state}`, or the name of a ready one.

Law: the names stand here once: the format is checked at the start by them, the access log writes by them, and the
manual tells them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pronghorn.errors import nearest

FIELDS = {
    "time": "when it was accepted, as RFC 3339 has it, in UTC, with milliseconds",
    "date": "the same as web servers write it: [23/Nov/2026:05:11:58.123 +0000]",
    "id": "the connection: the process id of its worker, and its number there",
    "peer": "the client's address and port",
    "proxy": "the address of the proxy that has said so, if there was one",
    "listener": "the name of the listener, or its address",
    "worker": "the worker's number, from 1",
    "generation": "which reload or upgrade the worker came with",
    "pid": "the worker's process id",
    "duration": "seconds from accept to the end",
    "duration_ms": "the same in milliseconds",
    "first_byte": "seconds from accept to the first byte sent",
    "first_byte_ms": "the same in milliseconds",
    "bytes_in": "bytes received, without those of TLS",
    "bytes_out": "bytes sent, without those of TLS",
    "messages": "messages received, as the framing cuts them",
    "state": "what ended it and in which phase, in two letters",
    "reason": "why it ended, in a word, or the limit that refused it",
    "detail": "more of the reason: the deadline, the error's class, how the program ended",
    "tls": "the version of TLS",
    "sni": "the name that the client asked TLS for",
    "log": "all that the handler has set: device=4711 site=north",
    "more": "what there is of detail, tls, sni, proxy and log, each with its name",
}
PREFIX = "log."
"""`{log.device}` is one field that the handler has set."""

TEXT = (
    "{peer} {date} {listener} w{worker}/{id} {duration_ms}ms first={first_byte_ms} in={bytes_in} out={bytes_out} "
    "msgs={messages} {state} {reason} {more}"
)
JSON = "json"
READY = {"text": TEXT, JSON: ""}


def parts(form: str) -> list[tuple[str, str]]:
    """What a format is made of: pairs of a text and the field that follows it, which is empty at the end. Raises
    ValueError for a field that there is not, or a brace alone."""
    from string import Formatter  # here: servers without an access log need none of it

    found = []
    try:
        for text, name, spec, conversion in Formatter().parse(READY.get(form, form)):
            if name is not None and (spec or conversion):
                raise ValueError(f"The field {name!r} takes nothing behind its name")
            if name is not None and name not in FIELDS and not (name.startswith(PREFIX) and name != PREFIX):
                raise ValueError(f"A format has no field {name!r} ({_hint(name, FIELDS)})")
            found.append((text, name or ""))
    except ValueError as error:
        if "brace" in str(error) or "expected" in str(error) or "Single" in str(error):
            raise ValueError("A field stands between braces, {peer}, and a brace of its own is written twice") from None
        raise
    return found


def _hint(word: str, words: Iterable[str]) -> str:
    hint = nearest(word, words)
    return hint[0].lower() + hint[1:].rstrip(".")


def check_format(form: str) -> None:
    """Raises ValueError, with what would be right."""
    if form in READY:
        return
    if not form.strip():
        raise ValueError("The format is empty")
    if "{" not in form and "}" not in form:
        raise ValueError(f"There is no format of that name, and no field in it ({_hint(form, READY)})")
    parts(form)
