"""Lines of the access log, and the process that writes them: from records to bytes, by a format with named fields.

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
from pronghorn.observers.access_log import plain
from pronghorn.settings.access_format import JSON, PREFIX, READY, parts
from pronghorn.system.access_writer import Writer
from pronghorn.system.connection_filter import peer_text
from pronghorn.system.side_boot import begin

LONGEST = min(select.PIPE_BUF, 4096) - 1  # bytes of a line, without its end
LONGEST_NAME, LONGEST_VALUE = 64, 256  # characters of what a handler sets, and of what a peer does
NOTHING = "-"
MOST_WORDS = 1000
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

Ended = ConnectionClosed | ConnectionRefused


def line_of(form: str) -> Callable[[bytes], bytes]:
    """The function that makes a line of a record, as access_log.py writes it; it raises ValueError, TypeError and their
    like for what is no record."""
    make = written(form)

    def line(record: bytes) -> bytes:
        now, *members = msgspec.json.decode(record)
        if type(now) is list:
            facts, now = now, members.pop(0)
            return make(plain((facts, *members)), now)
        made = ConnectionClosed if len(members) == len(ConnectionClosed.__struct_fields__) else ConnectionRefused
        return make(made(*members), now)

    return line


def written(form: str) -> Callable[[Ended, float], bytes]:
    """The function that makes a line of an event that came at this instant of the wall clock."""
    if form == JSON:
        return _json
    found = parts(form)
    closed, refused = _compiled(found, CLOSED), _compiled(found, REFUSED)

    def line(event: Ended, now: float) -> bytes:
        text = closed(event, now) if type(event) is ConnectionClosed else refused(event, now)
        data = text.rstrip(" ").encode("utf-8", "backslashreplace")
        if len(data) > LONGEST:
            data = data[: LONGEST - 3].decode("utf-8", "ignore").encode() + b"..."
        return data + b"\n"

    return line


def _compiled(found: list[tuple[str, str]], table: dict[str, str]) -> Callable[[Any, float], str]:
    """One function for all fields: a call for each would cost as much as the rest. It is made of the constants of
    `table` alone; texts and names of a user are values in its namespace."""
    names: dict[str, Any] = {"template": "".join(text.replace("%", "%%") + "%s" * bool(name) for text, name in found)}
    calls = []
    for number, (_, name) in enumerate(found):
        if name.startswith(PREFIX):
            names[f"name{number}"] = name.removeprefix(PREFIX)
            calls.append(f"one_of(e, name{number})")
        elif name:
            calls.append(table[name])
    code = f"lambda e, now: template % ({''.join(f'{call}, ' for call in calls)})"
    made: Callable[[Any, float], str] = eval(code, {**FUNCTIONS, **names})
    return made


# What every line may tell, of a connection that was served, and of one that was refused.

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


def _time(at: float) -> str:
    whole = int(at)
    return f"{_second(whole)[1]}.{int((at - whole) * 1000):03}Z"


def _date(at: float) -> str:
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


class _Words(dict[str, str]):
    """Texts of the server's own, quoted once each: there are few."""

    def __missing__(self, text: str) -> str:
        quoted = _quoted(text) if text else NOTHING
        if len(self) < MOST_WORDS:
            self[text] = quoted
        return quoted


def _log(event: Ended) -> str:
    return " ".join([f"{_quoted(key[:LONGEST_NAME])}={_quoted(value)}" for key, value in _fields(event)])


def _fields(event: Ended) -> tuple[tuple[str, str], ...]:
    return event.fields if isinstance(event, ConnectionClosed) else ()


def _one_of(event: Ended, name: str) -> str:
    return next((_quoted(value) for key, value in _fields(event) if key == name), NOTHING)


def _detail(event: Ended) -> str:
    if isinstance(event, ConnectionClosed) and event.program:
        return f"{event.detail}, {event.program}" if event.detail else event.program
    return event.detail


def _quoted_detail(event: Ended) -> str:
    return _quoted(detail) if (detail := _detail(event)) else NOTHING


def _more(event: Ended) -> str:
    told = [f"detail={_quoted(detail)}"] if (detail := _detail(event)) else []
    if isinstance(event, ConnectionClosed):
        told += [f"tls={event.tls}"] if event.tls else []
        told += [f"sni={_quoted(event.sni)}"] if event.sni else []
        told += [f"proxy={peer_text(event.proxy)}"] if event.proxy else []
    return " ".join([*told, _log(event)])


FUNCTIONS = {
    "date": _date,
    "detail": _quoted_detail,
    "log": _log,
    "more": _more,
    "one_of": _one_of,
    "peer": peer_text,
    "quoted": _quoted,
    "time": _time,
    "words": _Words(),
}
BOTH = {
    "peer": "peer(e.peer)",
    "listener": "words[e.listener_name or e.listener]",
    "worker": "e.worker",
    "generation": "e.generation",
    "state": "e.state",
    "detail": "detail(e) if e.detail else '-'",
}
CLOSED = BOTH | {
    "time": "time(now - e.seconds)",
    "date": "date(now - e.seconds)",
    "id": "e.id",
    "proxy": "peer(e.proxy) if e.proxy else '-'",
    "pid": "e.id.partition('-')[0]",
    "duration": "'%.3f' % e.seconds",
    "duration_ms": "int(e.seconds * 1000)",
    "first_byte": "'-' if e.first_byte is None else '%.3f' % e.first_byte",
    "first_byte_ms": "'-' if e.first_byte is None else int(e.first_byte * 1000)",
    "bytes_in": "e.bytes_in if e.measured else '-'",
    "bytes_out": "e.bytes_out if e.measured else '-'",
    "messages": "e.messages",
    "reason": "words[e.reason]",
    "detail": "detail(e) if e.detail or e.program else '-'",
    "tls": "e.tls or '-'",
    "sni": "quoted(e.sni) if e.sni else '-'",
    "log": "log(e) if e.fields else ''",
    "more": "more(e) if e.fields or e.detail or e.program or e.tls or e.proxy else ''",
}
REFUSED = (
    dict.fromkeys(CLOSED, "'-'")
    | BOTH
    | {
        "time": "time(now)",
        "date": "date(now)",
        "duration": "'0.000'",
        "duration_ms": "0",
        "reason": "quoted(e.limit)",
        "log": "''",
        "more": "more(e) if e.detail else ''",
    }
)
"""How each field of FIELDS is found in an event `e`: of a connection that was served, and of one that was refused."""


def _json(event: Ended, now: float) -> bytes:
    seconds = event.seconds if isinstance(event, ConnectionClosed) else 0.0
    said: dict[str, Any] = {"time": _time(now - seconds), "peer": peer_text(event.peer)}
    if listener := event.listener_name or event.listener:
        said["listener"] = _plain(listener)
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


if __name__ == "__main__":
    parts(READY["text"])  # imports what it needs, which the user that this process becomes might not be able to read
    Writer(begin(), line_of).run()
