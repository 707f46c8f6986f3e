"""Framings by name, as `--framing` and the settings file take them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from pronghorn.errors import BadSetting, nearest
from pronghorn.framing.counted import Counted, OctetCounted, counted, netstring, octet_counted
from pronghorn.framing.marks import AS_IN_PYTHON, Marked, TextLines, delimited, lines, marked, stream
from pronghorn.framing.prefixes import Fixed, Header, fixed, prefixed, varint
from pronghorn.framing.rule import Framing

PLAIN = {"stream": stream, "varint": varint, "netstring": netstring}
# What makes the framing, the class whose fields stand in the brackets, and an example.
MADE: dict[str, tuple[Callable[..., Framing[Any]], type[Framing[Any]], str]] = {
    "lines": (lines, TextLines, "lines, or lines(max=1000, keep_ends=yes, encoding=utf-8)"),
    "prefixed": (prefixed, Header, "prefixed(4), or prefixed(2, order=little, offset=2, adjust=-4)"),
    "marked": (marked, Marked, r"marked(\x0b, \x1c\r)"),
    "octet_counted": (octet_counted, OctetCounted, "octet_counted, or octet_counted(newline=no)"),
    "counted": (counted, Counted, r"counted(\r\n, start=$, trailer=\r\n)"),
    "fixed": (fixed, Fixed, "fixed(64)"),
}
NAMES = tuple("stream lines delimited prefixed varint marked octet_counted netstring counted fixed".split())
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\", "'": "'"}
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.?))", re.DOTALL)


def parse(text: str) -> Framing[Any]:
    r"""The framing that a command line names: `stream`, `lines`, `delimited(\r\n)`, `prefixed(4)`.

    A mark may hold \n \r \t \0 \\ and \xNN, and may also be written as in Python: `delimited(b"\r\n")`. All that
    stands in the brackets of `delimited` is its mark. Elsewhere values are parted by commas and may be named, as in
    `start=$`; in a mark, a comma is written \x2c, `=` \x3d, and a space at its end \x20.
    Raises BadSetting with the nearest right word.
    """
    match = re.fullmatch(r"\s*(\w*)\s*(?:\((.*)\)\s*)?", text, re.DOTALL)
    word, argument = match.groups() if match else (text, None)
    what = f"--framing is {text!r}."
    if word == "chosen":
        raise BadSetting(what, "chosen takes a function.", "Write it in the handler: @message(chosen(function)).")
    if word not in NAMES:
        raise BadSetting(what, f"There is no framing {word!r}.", nearest(word, NAMES))
    if word in PLAIN:
        if argument is not None:
            raise BadSetting(what, f"{word} takes nothing in brackets.", f"Write {word}.")
        return PLAIN[word]
    try:
        return delimited(_unescaped(argument or "")) if word == "delimited" else _made(word, argument)
    except (ValueError, TypeError) as error:
        example = r"delimited(\r\n)" if word == "delimited" else MADE[word][2]
        hint = f"Write {example}" + (r"; in a mark, \n \r \t \0 \\ and \xNN are known." if "\\" in example else ".")
        raise BadSetting(what, f"This is no framing: {error}.", hint) from None


def _made(word: str, argument: str | None) -> Framing[Any]:
    make, kind, _ = MADE[word]
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    required = [name for name, field in fields.items() if field.required]
    given: dict[str, Any] = {}
    for position, part in enumerate(argument.split(",") if argument else ()):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or name not in fields:
            if position >= len(required):
                raise ValueError(f"{part.strip()!r} is none of {', '.join(f'{each}=' for each in fields)}")
            name, value = required[position], part.strip()
        given[name] = _value(name, fields[name].type, value)
    for name in required:
        if name not in given:
            raise ValueError(f"{word} needs {' and '.join(required)}")
    return make(**given)


def _value(name: str, kind: Any, text: str) -> Any:
    if kind is bytes:
        return _unescaped(text)
    if kind is bool:
        if text not in ("yes", "no"):
            raise ValueError(f"{name} is yes or no, not {text!r}")
        return text == "yes"
    if name in ("order", "encoding"):
        return text
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"{name} is a number, not {text!r}")
    return int(text)


def _unescaped(text: str) -> bytes:
    if AS_IN_PYTHON.fullmatch(text):
        text = text[2:-1]
    mark, at = b"", 0
    for escape in ESCAPE.finditer(text):
        digits, letter = escape.groups()
        if digits is None and letter not in ESCAPES:
            raise ValueError(f"{escape[0]} is unknown")
        mark += text[at : escape.start()].encode() + (bytes.fromhex(digits) if digits else ESCAPES[letter].encode())
        at = escape.end()
    return mark + text[at:].encode()
