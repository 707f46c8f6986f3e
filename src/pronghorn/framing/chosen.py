"""The framing that looks at the head of each message, and chooses the framing that cuts this one."""

from __future__ import annotations

from collections.abc import Callable

from pronghorn.framing.marks import Stream, TextLines, stream
from pronghorn.framing.rule import Framing, Place


class Chosen(Framing[bytes], frozen=True):
    """Each message is cut by the framing that `function` chooses for it.

    The function gets the first `header` bytes of a message (one, if nothing else is said) and returns a framing, or
    None if no message begins so, which ends the connection; a ValueError ends the connection too. A message begins with
    those bytes: the chosen framing cuts them again. Replies are framed by `reply`: `stream` sends them as they are.

    Raises ValueError if `header` is less than one.
    """

    function: Callable[[bytes], Framing[bytes] | None]
    header: int = 1
    reply: Framing[bytes] = stream

    def __post_init__(self) -> None:
        if self.header < 1:
            raise ValueError(f"a header has at least one byte, not {self.header!r}")

    @property
    def name(self) -> str:
        return f"chosen({getattr(self.function, '__name__', self.function)})"

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        end = start + self.header
        if len(data) < end:
            return start, start, end
        return self._rule(data[start:end]).place(data, start, searched, limit)

    def rest(self, data: bytes) -> bytes | None:
        return self._rule(data[: self.header]).rest(data) if len(data) >= self.header else None

    def frame(self, message: bytes) -> bytes:
        return self.reply.frame(message)

    def _rule(self, header: bytes | bytearray) -> Framing[bytes]:
        head = bytes(header)
        rule = self.function(head)
        if rule is None:
            raise ValueError(f"{self.name} knows none that begins with {head!r}")
        if not isinstance(rule, Framing) or isinstance(rule, Stream | TextLines):
            raise TypeError(f"{self.name} must choose a framing whose messages are bytes and have an end, not {rule!r}")
        return rule


chosen = Chosen
