"""A gateway's message classes and conversations that are right: timers, ends, and messages that are read."""

import pronghorn


@pronghorn.message(pronghorn.prefixed(2))
class Device:
    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn
        self.name = ""

    def connected(self) -> None:
        self.late = self.conn.call_later(30, self.conn.close)
        timer: pronghorn.Timer = self.conn.every(10, self.say, b"are you there?")
        if not timer.active:
            timer.cancel()

    def __call__(self, message: bytes) -> bytes | None:
        self.late.cancel()
        self.name = message.decode()
        self.conn.idle_timeout = 600
        self.conn.log["device"] = self.name
        return b"%d" % self.conn.worker.number if self.conn.unsent == 0 else None

    def say(self, word: bytes) -> None:
        self.conn.send(word)

    def closed(self, reason: pronghorn.End) -> None:
        print(self.name, reason is pronghorn.End.DONE, reason.value)


@pronghorn.message(pronghorn.lines)
class Later:
    def __init__(self, conn: pronghorn.Conversation) -> None:
        self.conn = conn

    async def connected(self) -> None:
        await self.conn.send(b"hello")

    async def __call__(self, line: bytes) -> bytes:
        await self.conn.drained()
        return line

    async def closed(self, reason: pronghorn.End) -> None:
        print(reason)


@pronghorn.message(pronghorn.lines)
async def with_conversation(line: bytes, conn: pronghorn.Conversation) -> None:
    await conn.send(line)


@pronghorn.conversation(pronghorn.lines)
async def talk(conn: pronghorn.Conversation) -> None:
    first: bytes | None = await conn.receive()
    async for message in conn:
        await conn.send(message.upper() if first else message)


@pronghorn.conversation(pronghorn.lines)
async def upgrade(conn: pronghorn.Conversation) -> None:
    if await conn.receive() == b"STARTTLS":
        await conn.start_tls(after=b"go ahead")


@pronghorn.conversation(pronghorn.lines(encoding="utf-8"))
async def text(conn: pronghorn.Conversation[str]) -> None:
    async for line in conn:
        await conn.send(line.upper())


async def by_hand(conn: pronghorn.Conversation) -> None:
    await talk(conn)


class Resp(pronghorn.Framing[list[bytes], bytes], frozen=True):
    def frame(self, message: bytes) -> bytes:
        return message


@pronghorn.conversation(Resp())
async def store(conn: pronghorn.Conversation[list[bytes], bytes]) -> None:
    async for words in conn:
        await conn.send(words[0])


@pronghorn.message(Resp())
async def asks(words: list[bytes], conn: pronghorn.Conversation[list[bytes], bytes]) -> bytes | None:
    answer = await conn.receive()
    return answer[0] if answer else words[0]
