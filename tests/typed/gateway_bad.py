"""What both checkers refuse of conversations and timers: each statement with `# wrong`, and no other."""

import pronghorn


@pronghorn.conversation(pronghorn.lines)  # wrong: no coroutine
def blocks(conn: pronghorn.Conversation) -> None:
    conn.close()


@pronghorn.conversation(pronghorn.lines)  # wrong: it takes a connection alone
async def takes_a_message(line: bytes, conn: pronghorn.Conversation) -> None:
    await conn.send(line)


@pronghorn.conversation(pronghorn.lines(encoding="utf-8"))  # wrong: messages are text
async def bytes_for_text(conn: pronghorn.Conversation) -> None:
    await conn.send(b"hello")


@pronghorn.conversation(pronghorn.lines)
async def sends_text(conn: pronghorn.Conversation) -> None:
    await conn.send("hello")  # wrong: it sends bytes


@pronghorn.conversation(pronghorn.lines)
async def certain(conn: pronghorn.Conversation) -> None:
    message = await conn.receive()
    await conn.send(message)  # wrong: there may be none


@pronghorn.conversation  # wrong: no framing
async def without_brackets(conn: pronghorn.Conversation) -> None:
    conn.close()


@pronghorn.message(pronghorn.lines)  # wrong: only a coroutine has a conversation
def not_async(line: bytes, conn: pronghorn.Conversation) -> bytes:
    return line if conn.is_closing() else b""


def say(conn: pronghorn.MessageConnection, word: bytes) -> None:
    conn.send(word)


def without_argument(conn: pronghorn.MessageConnection) -> None:
    conn.call_later(1, say, conn)  # wrong: say takes two


def wrong_argument(conn: pronghorn.MessageConnection) -> None:
    conn.every(1, say, conn, "hello")  # wrong: say takes bytes


def never_again(conn: pronghorn.MessageConnection) -> None:
    conn.idle_timeout = "10s"  # wrong: seconds


def reads(conn: pronghorn.MessageConnection) -> None:
    conn.receive()  # wrong: a Conversation has this
