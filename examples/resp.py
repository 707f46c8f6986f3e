"""A framing of your own: the requests of Redis clients (RESP), and a small store that answers them.

    pronghorn serve examples/resp.py:handler -b 127.0.0.1:6379
    redis-cli set herd 12

Clients that begin with HELLO, as redis-py does from version 8 on, are told not to: redis.Redis(protocol=2).
A request is an array of strings, each behind its length: `*2`, `$3`, `GET`, `$4`, `herd`, with CR LF behind each. The
handler gets the strings as a list; its reply goes out as it is.
"""

import pronghorn

store: dict[bytes, bytes] = {}


class Resp(pronghorn.Framing[list[bytes], bytes], frozen=True):  # to the handler, and back
    def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> tuple[int, int, int] | None:
        """Where the request lies; None while that cannot be known. ValueError ends the connection."""
        at, left = start, None
        while left != 0:
            end = data.find(b"\r\n", at)
            if end < 0:
                return None
            kind, number = bytes(data[at : at + 1]), int(data[at + 1 : end])
            if kind != (b"*" if left is None else b"$") or number < 0:
                raise ValueError(f"an array of strings is expected, and {kind!r} came")
            at = end + 2 if left is None else end + 2 + number + 2
            left = number if left is None else left - 1
        return start, at, at

    def message(self, data: bytes) -> list[bytes]:
        words: list[bytes] = []
        at = data.index(b"\r\n") + 2
        while at < len(data):
            end = data.index(b"\r\n", at)
            size = int(data[at + 1 : end])
            words.append(data[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
        return words

    def frame(self, message: bytes) -> bytes:
        return message


@pronghorn.message(Resp())
def handler(words: list[bytes]) -> bytes:
    match [words[0].upper(), *words[1:]] if words else []:
        case [b"SET", key, value]:
            store[key] = value
            return b"+OK\r\n"
        case [b"GET", key] if key in store:
            return b"$%d\r\n%b\r\n" % (len(store[key]), store[key])
        case [b"GET", _]:
            return b"$-1\r\n"
    return b"-ERR unknown command\r\n"
