"""What clients say to a server for which there is no script: a few questions, and what its replies have in common.

Law: a reply is learnt only where it can be checked later. In this order: the server sends back what it gets in upper
case, or as it is; it answers a message always by the same bytes; always by as many bytes. Of every other server nothing
is guessed: the error names `--script`.
"""

from __future__ import annotations

import base64
import select
import time
from typing import NamedTuple

from pronghorn.bench.script import Spec, numbered, shown
from pronghorn.bench.sockets import Address, connection
from pronghorn.errors import PronghornError

FIRST = 2.0  # seconds for the first byte of a reply
QUIET = 0.25  # seconds without a byte: the reply is whole
GREETING = 0.15  # seconds for a server that speaks first
LONGEST = 1 << 24
HINT = "Name a --script that says what to send, and how to tell that a reply is whole and right."


class NothingLearnt(PronghornError):
    """Without a script it cannot be known which replies are right."""

    exit_code = 2


class Learnt(NamedTuple):
    """What clients say and expect: `spec` for load processes, and `words` for people."""

    spec: Spec
    words: str


class _Heard(NamedTuple):
    """What came to a message, and whether the server closed the connection then."""

    reply: bytes
    closed: bool


def learn(address: Address, size: int, message: bytes = b"", connect: bool = False) -> Learnt:
    """What a server answers to messages of `size` bytes, or to `message`. Raises NothingLearnt, OSError."""
    questions = [message] * 2 if message else [numbered(1, size), numbered(2, size)]
    heard = [_ask(address, each) for each in questions]
    if any(each.closed and not each.reply for each in heard):
        raise NothingLearnt(
            "The server closes the connection without a reply.",
            f"It was sent {shown(questions[0])}.",
            "Its log may say more: a message may be longer than it takes, or none of its protocol. " + HINT,
        )
    if any(each.closed for each in heard) and not connect:
        raise NothingLearnt(
            "The server closes the connection after a reply.",
            "Connections that stay open cannot be measured there.",
            "--connect measures it with a connection for each message.",
        )
    replies = [each.reply for each in heard]
    told = f"{len(questions[0]):,} bytes, "
    if not message:
        own = f"{told}a message of its own for each client; right is"
        if replies == [each.upper() for each in questions]:
            return Learnt({"kind": "upper", "size": size}, f"{own} its upper case")
        if replies == questions:
            return Learnt({"kind": "echo", "size": size}, f"{own} the same")
    first, again = (replies[0], _ask(address, questions[0]).reply)
    spec: Spec = {"message": base64.b64encode(questions[0]).decode()}
    if first == again:
        spec |= {"kind": "same", "reply": base64.b64encode(first).decode()}
        return Learnt(
            spec, f"{told}always the same; right are the {len(first):,} bytes of the first reply, {shown(first)}"
        )
    if len(first) == len(again):
        spec |= {"kind": "length", "length": len(first)}
        return Learnt(spec, f"{told}always the same; of the replies only their length is checked, {len(first):,} bytes")
    raise NothingLearnt(
        "It cannot be known which replies are right.",
        f"The same message was answered by {len(first):,} bytes, and then by {len(again):,}.",
        HINT,
    )


def _ask(address: Address, question: bytes) -> _Heard:
    """What comes to the question until nothing more comes."""
    with connection(address, FIRST) as sock:
        if select.select([sock], [], [], GREETING)[0]:
            early = sock.recv(4096)
            what = f"It sent {shown(early)} before it was asked." if early else "It closed the connection at once."
            raise NothingLearnt(
                "The server does not wait for a message.",
                what,
                "Name a --script, whose greeting() takes that." * bool(early),
            )
        received, until = b"", time.monotonic() + FIRST
        try:
            sock.sendall(question)
            while len(received) < LONGEST and select.select([sock], [], [], max(0.0, until - time.monotonic()))[0]:
                data = sock.recv(65536)
                if not data:
                    return _Heard(received, True)
                received += data
                until = time.monotonic() + QUIET
        except ConnectionError:
            return _Heard(received, True)
    if not received:
        why = f"No reply came within {FIRST:g} s to {shown(question)}."
        hint = HINT if question.endswith(b"\n") else f"If it waits for the end of a line: --message 'TEXT\\n'. {HINT}"
        raise NothingLearnt("It cannot be known which replies are right.", why, hint)
    return _Heard(received, False)
