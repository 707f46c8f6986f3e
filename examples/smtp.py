"""Half of a mail server: SMTP's conversation (RFC 5321), which ends in a log line instead of a mailbox.

    pronghorn serve examples/smtp.py:handler

Written as blocking code it reads from top to bottom, as the conversation goes: the server speaks first, each command
has its answer, and after DATA the lines are a letter, up to a dot on a line of its own.
"""

import socket
import sys
from typing import BinaryIO

LONGEST = 1000  # bytes in a line


def letter(lines: BinaryIO) -> bytes | None:
    """The lines up to the lonely dot; None if the client left before it."""
    text = b""
    while (line := lines.readline(LONGEST)).rstrip(b"\r\n") != b".":
        if not line:
            return None
        text += line.removeprefix(b".")  # the sender doubled a leading dot
    return text


def handler(conn: socket.socket) -> None:
    def say(answer: str) -> None:
        conn.sendall(answer.encode() + b"\r\n")

    sender = ""
    receivers: list[str] = []
    with conn.makefile("rb") as lines:
        say("220 pronghorn.example speaks a little SMTP")
        while line := lines.readline(LONGEST):
            command = line.decode(errors="replace").strip()
            match command.upper().replace(":", " ").split():
                case ["HELO" | "EHLO", name]:
                    say(f"250 hello {name.lower()}")
                case ["MAIL", "FROM", *_]:
                    sender, receivers = command[10:].strip(), []
                    say("250 ok")
                case ["RCPT", "TO", *_] if sender:
                    receivers.append(command[8:].strip())
                    say("250 ok")
                case ["DATA"] if receivers:
                    say("354 go on; a dot on a line of its own ends it")
                    if (text := letter(lines)) is None:
                        return
                    print(f"{len(text)} bytes from {sender} to {', '.join(receivers)}", file=sys.stderr)
                    sender, receivers = "", []
                    say("250 thank you")
                case ["QUIT"]:
                    return say("221 goodbye")
                case _:
                    say("503 not now, or not known here")
