"""Message handlers that both checkers refuse: each statement with `# wrong`, and no other."""

import pronghorn


@pronghorn.message(pronghorn.lines)  # wrong: messages are bytes
def text_for_bytes(line: str) -> str:
    return line


@pronghorn.message(pronghorn.lines)  # wrong: the reply is bytes
def replies_text(line: bytes) -> str:
    return line.decode()


@pronghorn.message(pronghorn.lines(encoding="utf-8"))  # wrong: messages are text
def bytes_for_text(line: bytes) -> bytes:
    return line


@pronghorn.message(pronghorn.lines(encoding="utf-8"))  # wrong: the reply is text
def replies_bytes(line: str) -> bytes:
    return line.encode()


@pronghorn.message(pronghorn.lines)  # wrong: it takes no message
def takes_nothing() -> bytes:
    return b""


@pronghorn.message(pronghorn.lines)  # wrong: nobody gives a third argument
def takes_three(line: bytes, conn: pronghorn.MessageConnection, more: int) -> bytes:
    return line * more


@pronghorn.message(pronghorn.lines)  # wrong: the second argument is a MessageConnection
def takes_a_socket(line: bytes, conn: pronghorn.Connection) -> bytes:
    return line


@pronghorn.message(pronghorn.lines)  # wrong: a number is no reply
async def replies_a_number_later(line: bytes) -> int:
    return len(line)


@pronghorn.message(pronghorn.lines)  # wrong: its objects cannot be called
class Uncallable:
    pass


@pronghorn.message(pronghorn.lines)  # wrong: nobody gives two arguments
class TakesTwo:
    def __init__(self, host: str, port: int) -> None:
        self.where = host, port

    def __call__(self, line: bytes) -> bytes:
        return line


@pronghorn.message(pronghorn.lines)  # wrong: nobody gives a third argument
class CallTakesThree:
    def __call__(self, line: bytes, conn: pronghorn.MessageConnection, more: int) -> bytes:
        return line * more


@pronghorn.message(pronghorn.lines)  # wrong: the reply is bytes
class RepliesText:
    def __call__(self, line: bytes) -> str:
        return line.decode()


@pronghorn.message  # wrong: no framing
def without_brackets(line: bytes) -> bytes:
    return line


@pronghorn.message("lines")  # wrong: the name of a framing
def named(line: bytes) -> bytes:
    return line


@pronghorn.message(pronghorn.lines(encoding="utf-8"))  # wrong: this connection sends bytes
def sends_bytes(line: str, conn: pronghorn.MessageConnection) -> None:
    conn.send(line.encode())


@pronghorn.message(pronghorn.lines)
def sends_text(line: bytes, conn: pronghorn.MessageConnection) -> None:
    conn.send(line.decode())  # wrong: it sends bytes


class Resp(pronghorn.Framing[list[bytes], bytes], frozen=True):
    def frame(self, message: bytes) -> bytes:
        return message


@pronghorn.message(Resp())  # wrong: the reply is bytes
def replies_words(words: list[bytes]) -> list[bytes]:
    return words


@pronghorn.message(Resp())  # wrong: messages are lists
def takes_bytes(message: bytes) -> bytes:
    return message


class WrongFraming(pronghorn.Framing[str], frozen=True):
    def frame(self, message: bytes) -> bytes:  # wrong: replies are text
        return message
