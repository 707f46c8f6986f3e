"""Message handlers that are right, in every form; the decorator gives back what it was given."""

from collections.abc import Iterator

import pronghorn


@pronghorn.message(pronghorn.lines)
def shout(line: bytes) -> bytes:
    return line.upper()


reply: bytes = shout(line=b"hello")
pronghorn.serve(shout, bind=":8000")


@pronghorn.message()
def raw(data: bytes) -> bytes | None:
    return data or None


@pronghorn.message(pronghorn.prefixed(4))
def knows_its_connection(message: bytes, conn: pronghorn.MessageConnection) -> bytes | None:
    if message == b"quit" or conn.draining:
        conn.send(b"goodbye")
        conn.close()
        return None
    return b"%d" % conn.number


@pronghorn.message(pronghorn.lines)
def silent(line: bytes) -> None:
    print(line)


@pronghorn.message(pronghorn.lines)
async def later(line: bytes) -> bytes:
    return line


@pronghorn.message(pronghorn.netstring)
async def later_with_connection(message: bytes, conn: pronghorn.MessageConnection) -> bytes | None:
    return message if conn.tls is None else conn.tls.version.encode()


async def talk() -> bytes:
    return await later(b"hello")


@pronghorn.message(pronghorn.lines)
class Counting:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, line: bytes, conn: pronghorn.MessageConnection) -> bytes:
        self.count += 1
        return b"%d %d" % (self.count, conn.number)


count: int = Counting().count


@pronghorn.message(pronghorn.lines)
class Game:
    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        conn.send(b"Which number is it?")

    def __call__(self, line: bytes) -> bytes | None:
        return line if line else None


@pronghorn.message(pronghorn.lines)
class Later:
    async def __call__(self, line: bytes) -> bytes:
        return line


class Upper:
    def __call__(self, message: bytes) -> bytes:
        return message.upper()


upper: Upper = pronghorn.message(pronghorn.delimited(b"\r\n"))(Upper())


@pronghorn.message(pronghorn.lines(encoding="utf-8"))
def text(line: str) -> str:
    return line.upper()


said: str = text("hello")


@pronghorn.message(pronghorn.lines(encoding="utf-8"))
async def text_later(line: str) -> str | None:
    return line or None


@pronghorn.message(pronghorn.lines(encoding="utf-8"))
class Greeting:
    def __init__(self, conn: pronghorn.MessageConnection[str]) -> None:
        conn.send("hello")

    def __call__(self, line: str, conn: pronghorn.MessageConnection[str]) -> None:
        conn.send(line)
        conn.write(b"\n" if conn.drain else b"")


class Resp(pronghorn.Framing[list[bytes], bytes], frozen=True):
    def frame(self, message: bytes) -> bytes:
        return message


@pronghorn.message(Resp())
def store(words: list[bytes]) -> bytes:
    return words[0]


@pronghorn.message(Resp())
class Store:
    def __init__(self) -> None:
        self.kept: list[bytes] = []

    async def __call__(self, words: list[bytes]) -> bytes | None:
        self.kept += words
        return words[-1]


def database() -> Iterator[dict[bytes, bytes]]:
    yield {}


@pronghorn.lifespan(database)
@pronghorn.message(pronghorn.lines)
def look_up(line: bytes, conn: pronghorn.MessageConnection) -> bytes:
    found: dict[bytes, bytes] = conn.lifespan
    return found.get(line, b"nothing")
