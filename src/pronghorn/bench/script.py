"""What a client of a load process says, and which replies are right: one message again and again, or a user's script.

Law: every reply is checked. A script is a Python file with `request(n) -> bytes`, the message number `n` of a
connection, counted from 0, and `reply(n, received)`, which tells of all bytes received since the last reply how many
of them are the reply to it: a number, True for all of them, None where the reply is not whole yet; it returns False or
raises where the reply is wrong. `greeting(received)`, if there is one, tells the same of what the server says first.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

SHOWN = 60  # bytes of a wrong reply
TEXT = "the quick brown fox jumps over the lazy dog "
Spec = dict[str, Any]


class WrongReply(Exception):
    """A reply is not what it has to be; the text says what came."""


class BadScript(Exception):
    """A script cannot be used; the text says why."""


class Talk(Protocol):
    """One connection's talk: what is sent, and what came back."""

    greeted: bool
    """Whether the server has said what it says first; true from the start where it says nothing."""

    def messages(self, count: int) -> bytes:
        """The next messages, in one piece. Raises BadScript."""

    def take(self, data: bytes, asked: int) -> int:
        """How many of the replies that are waited for, `asked`, have become whole by these bytes. Raises WrongReply."""

    def part(self) -> bytes:
        """What has come of a reply, or of the greeting, that is not whole yet."""


def numbered(number: int, size: int) -> bytes:
    """A client's own message of `size` bytes: a line of text that begins with the client's number."""
    text = f"{number:x} {TEXT * (size // len(TEXT) + 1)}"
    return text[: size - 1].encode() + b"\n"


def shown(data: bytes) -> str:
    return repr(data[:SHOWN]) + (f"... ({len(data)} bytes)" if len(data) > SHOWN else "")


def _told(error: Exception) -> str:
    """The error of a script's function, and where in that function: all that a bare assert has to say."""
    frame = error.__traceback__ and error.__traceback__.tb_next
    where = f" ({os.path.basename(frame.tb_frame.f_code.co_filename)}, line {frame.tb_lineno})" if frame else ""
    return type(error).__name__ + f": {error}" * bool(str(error)) + where


class Same:
    """One message, again and again, and its one right reply."""

    __slots__ = ("expected", "greeted", "message", "offset")

    def __init__(self, message: bytes, expected: bytes) -> None:
        self.message, self.expected = message, expected
        self.offset = 0  # of the reply that is under way
        self.greeted = True

    def messages(self, count: int) -> bytes:
        return self.message if count == 1 else self.message * count

    def is_reply(self, data: bytes) -> bool:
        """Whether these bytes are a reply, whole and right."""
        return data == self.expected and not self.offset

    def take(self, data: bytes, asked: int) -> int:
        size = len(self.expected)
        offset, end = self.offset, self.offset + len(data)
        whole, self.offset = divmod(end, size)
        right = (self.expected * (whole + 1))[offset:end]
        if data != right:
            raise WrongReply(f"{shown(data)} came instead of {shown(right)}")
        if end > asked * size:
            raise WrongReply(f"{end - asked * size} bytes came that nobody asked for")
        return whole

    def part(self) -> bytes:
        return self.expected[: self.offset]


class Scripted:
    """The talk that a script's functions lead."""

    __slots__ = ("_answered", "_greeting", "_received", "_reply", "_request", "_sent", "greeted")

    def __init__(
        self,
        request: Callable[[int], Any],
        reply: Callable[[int, bytes], Any],
        greeting: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._request, self._reply, self._greeting = request, reply, greeting
        self._sent = self._answered = 0
        self._received = b""
        self.greeted = greeting is None

    def messages(self, count: int) -> bytes:
        found = []
        for _ in range(count):
            found.append(self._message())
            self._sent += 1
        return b"".join(found)

    def _message(self) -> bytes:
        try:
            message = self._request(self._sent)
        except Exception as error:
            raise BadScript(f"request({self._sent}) raised {_told(error)}") from None
        if not isinstance(message, bytes | bytearray) or not message:
            raise BadScript(
                f"request({self._sent}) returned {message!r:.80}, and has to return bytes that are not empty"
            )
        return bytes(message)

    def take(self, data: bytes, asked: int) -> int:
        self._received += data
        if not self.greeted:
            assert self._greeting is not None
            if not (size := self._size("greeting()", self._greeting, self._received)):
                return 0
            self._received = self._received[size:]
            self.greeted = True
        count = 0
        while self._received and count < asked:
            name = f"reply({self._answered}, ...)"
            if not (size := self._size(name, self._reply, self._answered, self._received)):
                return count
            self._received = self._received[size:]
            self._answered += 1
            count += 1
        if self._received and count == asked:
            raise WrongReply(f"{shown(self._received)} came that nobody asked for")
        return count

    def part(self) -> bytes:
        return self._received

    def _size(self, name: str, function: Callable[..., Any], *arguments: Any) -> int:
        """What the function says of the bytes: how many it takes, 0 for none yet."""
        try:
            said = function(*arguments)
        except Exception as error:
            raise WrongReply(f"{name} raised {_told(error)}; {shown(self._received)} came") from None
        if said is None:
            return 0
        if said is True:
            return len(self._received)
        if said is False:
            raise WrongReply(f"{name} returned False: {shown(self._received)} came")
        if not isinstance(said, int) or not 0 < said <= len(self._received):
            raise WrongReply(f"{name} returned {said!r:.40} of {len(self._received)} bytes")
        return said


def talks(spec: Spec) -> Callable[[int], Talk]:
    """What makes the talk of a client, by its number. The kinds of a spec:

    `{"kind": "upper", "size": 64}`, or `echo`: a message of its own for each client, back in upper case or as it is;
    `{"kind": "same", "message": M, "reply": R}` (base64): one message and its one right reply;
    `{"kind": "length", "message": M, "length": 12}`: one message, and replies of which only the length is known;
    `{"kind": "script", "path": P}`: a user's script. Raises BadScript.
    """
    kind = spec["kind"]
    if kind == "script":
        return scripted(spec["path"])
    if kind in ("upper", "echo"):
        size, right = spec["size"], bytes.upper if kind == "upper" else bytes
        return lambda number: Same(message := numbered(number, size), right(message))
    message = base64.b64decode(spec["message"])
    if kind == "same":
        reply = base64.b64decode(spec["reply"])
        return lambda number: Same(message, reply)
    length = spec["length"]
    return lambda number: Scripted(lambda _: message, lambda _, received: length if len(received) >= length else None)


def scripted(path: str) -> Callable[[int], Talk]:
    """The same for the script at a path, which is imported here. Raises BadScript."""
    found = importlib.util.spec_from_file_location("pronghorn_bench_script", path)
    if found is None or found.loader is None:
        raise BadScript(f"{path} is no Python file: its name has to end with .py")
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadScript(f"Its import raised {type(error).__name__}: {error}") from None
    for name in ("request", "reply"):
        if not callable(getattr(module, name, None)):
            raise BadScript(f"It has no function {name}()")
    request, reply, greeting = module.request, module.reply, getattr(module, "greeting", None)
    return lambda number: Scripted(request, reply, greeting)
