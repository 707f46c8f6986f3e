"""Framings on the bytes of public protocols (tests/captures.py), in every split, with limits and garbage."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import captures
from pronghorn.framing import (
    Framing,
    chosen,
    counted,
    delimited,
    fixed,
    lines,
    marked,
    netstring,
    octet_counted,
    parse,
    prefixed,
    stream,
    varint,
)
from pronghorn.testing import check_framing, serving, until
from pronghorn.testing.framings import outcome

EXAMPLES = Path(__file__).parent.parent / "examples"
RESP = runpy.run_path(str(EXAMPLES / "resp.py"))["Resp"]()
SHORT, LONG = (prefixed(width, start=mark, trailer=b"\r\n") for width, mark in ((1, b"xx"), (2, b"yy")))


def gt06(head: bytes) -> Framing | None:
    return {b"xx": SHORT, b"yy": LONG}.get(head)


HTTP = b"GET / HTTP/1.1\r\nHost: herd\r\n\r\n"
PROTOCOLS: dict[str, tuple[Framing[Any], bytes, Callable[[Any], bytes], int, bytes]] = {
    # framing, capture, what every message begins with (or is), how many there are, garbage
    "MLLP": (marked(b"\x0b", b"\x1c\r"), captures.MLLP, lambda each: each[:4], 2, HTTP),
    "Modbus TCP": (prefixed(2, offset=4), captures.MODBUS, lambda each: each[2:4], 2, b"\0\1\0\0\xff\xff\1\1"),
    "ISO 8583": (prefixed(2), captures.ISO_8583, lambda each: each[:1], 2, b""),
    "FIX": (counted(b"\1", start=b"8=FIX.4.4\x019=", adjust=7), captures.FIX, lambda each: each[:3], 2, HTTP),
    "RESP": (RESP, captures.RESP, len, 4, HTTP),
    "syslog, counted": (octet_counted, captures.SYSLOG_COUNTED, lambda each: each[-2:], 2, b"09 <12>1 ab"),
    "syslog, strict": (octet_counted(newline=False), captures.SYSLOG_COUNTED, lambda each: each[:1], 2, b"<12>1 -\n"),
    "syslog, lines": (octet_counted, captures.SYSLOG_LINES, lambda each: each[:1], 2, b"12345678901234567890 "),
    "syslog, both": (octet_counted, captures.SYSLOG_COUNTED + captures.SYSLOG_LINES, lambda each: each[:1], 4, b""),
    "syslog of Python": (delimited(b"\0"), captures.SYSLOG_OF_PYTHON, lambda each: each[:1], 2, b""),
    "netstrings": (netstring, captures.NETSTRINGS, len, 3, b"3:oneX"),
    "GT06": (chosen(gt06, 2), b"".join(captures.GT06), lambda each: each[:1], 3, HTTP),
    "GT06, one kind": (SHORT, b"".join(captures.GT06[:2]), lambda each: each[:1], 2, captures.GT06[2]),
    "JT/T 808": (marked(b"~", b"~"), captures.JT808, lambda each: each[:2], 2, b"\0"),
    "protocol buffers": (varint, captures.PROTOBUF, lambda each: each[:1], 2, b"\xff" * 10),
}
WANTED: dict[str, list[Any]] = {
    "MLLP": [b"MSH|"] * 2,
    "Modbus TCP": [b"\0\0"] * 2,
    "ISO 8583": [b"0"] * 2,
    "FIX": [b"35="] * 2,
    "RESP": [4, 4, 3, 2],
    "syslog, counted": [b"en", b"lf"],
    "netstrings": [3, 0, 6],
    "GT06": [b"\x01", b"\x13", b"\x94"],
    "GT06, one kind": [b"\x01", b"\x13"],
    "JT/T 808": [b"\0\2"] * 2,
    "protocol buffers": [b"\x08", b"\x12"],
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_capture_is_cut_as_its_specification_says(name: str) -> None:
    rule, raw, sign, count, garbage = PROTOCOLS[name]
    messages, error = outcome(rule, [raw])
    assert (len(messages), error) == (count, "")
    assert [sign(each) for each in messages] == WANTED.get(name, [b"<"] * count)
    check_framing(rule, wire=[raw, raw[:-1], raw + raw[:5]], garbage=[garbage] if garbage else [], splits=50)
    if rule is not RESP and not isinstance(rule, type(chosen(gt06))) and b"\n<" not in raw:
        assert b"".join(map(rule.frame, messages)) == raw
        check_framing(rule, messages, garbage=[garbage] if garbage else [], splits=20)


@pytest.mark.parametrize(
    ("rule", "messages", "garbage"),
    [
        (lines, [b"one", b"", b"three"], []),
        (lines(encoding="utf-8"), ["1", "zwölf", ""], [b"\xff\n"]),
        (lines(keep_ends=True), [b"one\r\n", b"two\n"], []),
        (lines(max=9), [b"one"], [b"x" * 12]),
        (prefixed(3), [b"abc", b"", b"x" * 300], [b"\xff\xff\xff"]),
        (prefixed(8, "little"), [b"abc", b"x" * 300], [b"\xff" * 8]),
        (prefixed(4, "little", adjust=-4), [b"abc", b""], [b"\3\0\0\0"]),
        (prefixed(2, start=b"ab", strip=1), [b"b\0\1x"], [b"xx\0\1"]),
        (fixed(4), [b"abcd", b"efgh"], []),
        (parse("counted(;, start=<, trailer=>, zeros=yes)"), [b"a", b"bc"], [b"<1;ab", b"<;", b"[", b"<" + b"1" * 19]),
    ],
    ids=lambda each: each.name if isinstance(each, Framing) else "",
)
def test_a_framing_keeps_what_is_promised(rule: Framing[Any], messages: list[Any], garbage: list[bytes]) -> None:
    check_framing(rule, messages, garbage=garbage, splits=50)


def test_a_payload_that_holds_the_end_mark_needs_its_length() -> None:
    """Why GT06 is not cut by its marks: the second packet's serial number is CR LF."""
    by_marks, error = outcome(marked(b"xx", b"\r\n"), captures.GT06[:2])
    assert (len(by_marks[1]), error) == (7, "BadMessage")
    assert len(outcome(SHORT, captures.GT06[:2])[0]) == 2


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            lambda data, start: (start, len(data), len(data)),
            "gives",
        ),  # what came at once: each split is another message
        (lambda data, start: (start, start + 1, start + 1), "error was to come"),  # no garbage at all
    ],
)
def test_a_framing_that_breaks_a_promise_is_found(place: Callable[[Any, int], Any], said: str) -> None:
    class Broken(Framing, frozen=True):
        def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Any:
            return place(data, start)

        def frame(self, message: bytes) -> bytes:
            return message

    with pytest.raises(AssertionError, match=said):
        check_framing(Broken(), [b"a", b"b"], wire=[b"abc"], garbage=[b"!"])
    with pytest.raises(AssertionError, match="gives"):
        check_framing(stream, [b"ab"])


def test_a_choice_that_is_none_is_the_handlers_fault() -> None:
    rule = chosen(lambda head: stream)
    with pytest.raises(TypeError, match="must choose a framing"):
        rule.cutter(9).feed(b"a")
    assert chosen(gt06, reply=lines).frame(b"a") == b"a\n"


@pytest.mark.parametrize("model", ["thread", "epoll", "asyncio"])
def test_garbage_ends_its_own_connection(model: str) -> None:
    with serving("echo", model=model, framing="marked(<, >)") as server:
        with server.connect() as good, server.connect() as bad:
            good.sendall(b"<a")
            bad.sendall(b"<b>GET")
            assert bad.makefile("rb").read() == b"<b>"
            good.sendall(b"bc><d>")
            assert good.recv(8, 0x100) == b"<abc><d>"
        told = "what came is no message of marked(<, >): b'<' is expected, and b'G' came"
        until(lambda: told in server.log(), "the log says what came")
