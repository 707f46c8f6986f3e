"""Lines of the access log: from the event of a connection's end to bytes, by a format with named fields.

Law: a line is one line whatever a peer or a handler has put into it, and no longer than PIPE_BUF. What is unknown, or
was not there, is `-` in text, and left out of JSON.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn.errors import printable
from pronghorn.events import ConnectionClosed, ConnectionRefused
from pronghorn.settings.access_format import JSON, PREFIX, parts
from pronghorn.system.connection_filter import peer_text

LONGEST = min(select.PIPE_BUF, 4096) - 1  # bytes of a line, without its end
LONGEST_NAME, LONGEST_VALUE = 64, 256  # characters of what a handler sets, and of what a peer does
NOTHING = "-"
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

Ended = ConnectionClosed | ConnectionRefused
Getter = Callable[[Any], Any]


def line_of(form: str) -> tuple[Callable[[Ended], bytes], bool]:
    """The function that makes a line of an event; and whether that tells of the first byte."""
    if form == JSON:
        return _json, True
    found = parts(form)
    names = [name for _, name in found if name]
    template = "".join(text.replace("%", "%%") + ("%s" if name else "") for text, name in found)
    getters = tuple(_getter(name) for name in names)

    def line(event: Ended) -> bytes:
        text = template % tuple([get(event) for get in getters])
        data = text.rstrip(" ").encode("utf-8", "backslashreplace")
        if len(data) > LONGEST:
            data = data[: LONGEST - 3].decode("utf-8", "ignore").encode() + b"..."
        return data + b"\n"

    return line, any(name.startswith("first_byte") for name in names)


def _getter(name: str) -> Getter:
    if name.startswith(PREFIX):
        wanted = name.removeprefix(PREFIX)
        return lambda event: next((_quoted(value) for key, value in _fields(event) if key == wanted), NOTHING)
    return GETTERS[name]


# What every line may tell, of a connection that was served, and of one that was refused.

_closed = ConnectionClosed


def _accepted(event: Ended) -> float:
    return time.time() - event.seconds if type(event) is _closed else time.time()


_last: tuple[int, str, str] = (0, "", "")


def _second(whole: int) -> tuple[int, str, str]:
    """A second in both forms, up to its fraction; kept, for many lines have the same."""
    global _last
    last = _last
    if last[0] != whole:
        at = time.gmtime(whole)
        clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        date = f"{at.tm_mday:02}/{MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        _last = last = (whole, f"{at.tm_year}-{at.tm_mon:02}-{at.tm_mday:02}T{clock}", f"[{date}:{clock}")
    return last


def _time(event: Ended) -> str:
    at = _accepted(event)
    whole = int(at)
    return f"{_second(whole)[1]}.{int((at - whole) * 1000):03}Z"


def _date(event: Ended) -> str:
    at = _accepted(event)
    whole = int(at)
    return f"{_second(whole)[2]}.{int((at - whole) * 1000):03} +0000]"


def _plain(text: str) -> str:
    """A text that nobody can forge a line with."""
    if not text.isprintable() or len(text) > LONGEST_VALUE:
        return printable(text, LONGEST_VALUE, "")
    return text


def _quoted(text: str) -> str:
    """The same for a line of text, where blanks part the fields: between quotation marks, if need be."""
    if text.isalnum() and len(text) <= LONGEST_VALUE:
        return text
    text = _plain(text)
    if text and not any(each in text for each in ' "=\\'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fields(event: Ended) -> tuple[tuple[str, str], ...]:
    return event.fields if type(event) is _closed else ()


def _log(event: Ended) -> str:
    return " ".join([f"{_quoted(key[:LONGEST_NAME])}={_quoted(value)}" for key, value in _fields(event)])


def _more(event: Ended) -> str:
    found = [f"{name}={value}" for name in IN_MORE if (value := GETTERS[name](event)) != NOTHING]
    return " ".join([*found, _log(event)])


def _detail(event: Ended) -> str:
    if type(event) is _closed:
        return ", ".join(filter(None, (event.detail, event.program)))
    return event.detail


def _first_byte(event: Ended) -> float | None:
    return event.first_byte if type(event) is _closed else None


def _number(name: str) -> Getter:
    """A count of a connection that was served."""

    def get(event: Ended) -> Any:
        return getattr(event, name) if type(event) is _closed and (event.measured or name == "messages") else NOTHING

    return get


GETTERS: dict[str, Getter] = {
    "time": _time,
    "date": _date,
    "id": lambda event: event.id if type(event) is _closed else NOTHING,
    "peer": lambda event: peer_text(event.peer),
    "proxy": lambda event: peer_text(event.proxy) if type(event) is _closed and event.proxy else NOTHING,
    "listener": lambda event: _quoted(event.listener) if event.listener else NOTHING,
    "worker": lambda event: event.worker,
    "generation": lambda event: event.generation,
    "pid": lambda event: event.id.partition("-")[0] if type(event) is _closed else NOTHING,
    "duration": lambda event: f"{event.seconds:.3f}" if type(event) is _closed else "0.000",
    "duration_ms": lambda event: int(event.seconds * 1000) if type(event) is _closed else 0,
    "first_byte": lambda event: NOTHING if (first := _first_byte(event)) is None else f"{first:.3f}",
    "first_byte_ms": lambda event: NOTHING if (first := _first_byte(event)) is None else int(first * 1000),
    "bytes_in": _number("bytes_in"),
    "bytes_out": _number("bytes_out"),
    "messages": _number("messages"),
    "state": lambda event: event.state,
    "reason": lambda event: _quoted(event.reason if type(event) is _closed else event.limit),
    "detail": lambda event: _quoted(_detail(event)) if _detail(event) else NOTHING,
    "tls": lambda event: event.tls if type(event) is _closed and event.tls else NOTHING,
    "sni": lambda event: _quoted(event.sni) if type(event) is _closed and event.sni else NOTHING,
    "log": _log,
    "more": _more,
}
IN_MORE = ("detail", "tls", "sni", "proxy")


def _json(event: Ended) -> bytes:
    said: dict[str, Any] = {"time": _time(event), "peer": peer_text(event.peer)}
    if event.listener:
        said["listener"] = _plain(event.listener)
    said["worker"], said["generation"] = event.worker, event.generation
    if isinstance(event, ConnectionClosed):
        said |= {"id": event.id, "duration": round(event.seconds, 6), "messages": event.messages}
        if event.measured:
            said["bytes_in"], said["bytes_out"] = event.bytes_in, event.bytes_out
        if event.first_byte is not None:
            said["first_byte"] = round(event.first_byte, 6)
        if event.proxy:
            said["proxy"] = peer_text(event.proxy)
        if event.tls:
            said["tls"] = event.tls
        if event.sni:
            said["sni"] = _plain(event.sni)
        said["state"], said["reason"] = event.state, _plain(event.reason)
    else:
        said |= {"state": event.state, "reason": _plain(event.limit)}
    if detail := _detail(event):
        said["detail"] = _plain(detail)
    fields = {_plain(key[:LONGEST_NAME]): _plain(value) for key, value in _fields(event)}
    if fields:
        said["log"] = fields
    data = msgspec.json.encode(said)
    while len(data) > LONGEST and fields:  # the last ones of very many
        fields.popitem()
        data = msgspec.json.encode(said)
    if len(data) > LONGEST:  # texts of a peer, all as long as they may be
        data = msgspec.json.encode({name: each[:64] if isinstance(each, str) else each for name, each in said.items()})
    return data + b"\n"
