"""Framings with a length in front, in decimal digits: counted, netstring, octet_counted (syslog)."""

from __future__ import annotations

from pronghorn.framing.marks import lines
from pronghorn.framing.rule import Framing, Place, begins, check_mark, written

DIGITS = b"0123456789"
MOST_DIGITS = 18


class Counted(Framing[bytes], frozen=True):
    """A message goes behind its length in decimal digits, which `end` follows.

    `start`: the bytes before the digits. `adjust`, `trailer`: as with `prefixed`. `zeros`: a length may begin with
    zeros. Raises ValueError if `end` is empty, TypeError if a mark is not bytes.
    """

    end: bytes
    start: bytes = b""
    adjust: int = 0
    trailer: bytes = b""
    zeros: bool = False

    def __post_init__(self) -> None:
        check_mark(self.end)
        check_mark(self.start, may_be_empty=True)
        check_mark(self.trailer, may_be_empty=True)
        if self.end[:1] in DIGITS:
            raise ValueError("the mark behind the digits does not begin with one")

    @property
    def name(self) -> str:
        return "netstring" if self == netstring else written("counted", self)

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        at = start + len(self.start)
        if not begins(data, start, self.start):
            return None
        head = bytes(data[at : at + MOST_DIGITS + 1])
        digits = head[: len(head) - len(head.lstrip(DIGITS))]
        if not digits and head:
            raise ValueError(f"digits are expected, and {head!r} came")
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"its length has more than {MOST_DIGITS} digits")
        if digits[:1] == b"0" != digits and not self.zeros:
            raise ValueError("its length begins with a zero")
        if not begins(data, at + len(digits), self.end):
            return None
        first = at + len(digits) + len(self.end)
        last = first + int(digits) + self.adjust
        if last < first:
            raise ValueError(f"its length is {int(digits)}, and cannot be less than {-self.adjust}")
        end = last + len(self.trailer)
        if end <= len(data):
            begins(data, last, self.trailer)
        return first, last, end

    def frame(self, message: bytes) -> bytes:
        """The message behind its length. Raises ValueError if it is shorter than `adjust` says."""
        if len(message) < self.adjust:
            raise ValueError(f"a reply of {len(message)} bytes is no message of {self.name}, which has {self.adjust}")
        return b"%b%d%b%b%b" % (self.start, len(message) - self.adjust, self.end, message, self.trailer)


counted = Counted
netstring: Counted = Counted(b":", trailer=b",")
"""D. J. Bernstein's netstrings: `5:hello,`."""
OCTETS = Counted(b" ")


class OctetCounted(Framing[bytes], frozen=True):
    """Syslog over TCP (RFC 6587): a message goes behind its length, in digits, and a space.

    With `newline`, as most receivers do, a message that does not begin with a digit ends at LF, as with `lines`: many
    senders count nothing. `octet_counted` is this rule, `octet_counted(newline=False)` the strict one. A reply is
    counted.
    """

    newline: bool = True

    @property
    def name(self) -> str:
        return "octet_counted" if self.newline else "octet_counted(newline=no)"

    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> Place | None:
        rule: Framing[bytes] = lines if self.newline and data[start] not in DIGITS else OCTETS
        return rule.place(data, start, searched, limit)

    def rest(self, data: bytes) -> bytes | None:
        return lines.rest(data) if self.newline and data[0] not in DIGITS else None

    def frame(self, message: bytes) -> bytes:
        return OCTETS.frame(message)

    def __call__(self, *, newline: bool = True) -> OctetCounted:
        return OctetCounted(newline)


octet_counted: OctetCounted = OctetCounted()
