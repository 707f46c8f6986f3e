"""A key-value store whose messages go behind their length, so that keys and values may hold any byte.

    pronghorn serve examples/keyvalue.py:handler

A message is a four-byte length and so many bytes (pronghorn.prefixed(4)). Inside, a letter says what to do:

    S, one byte with the length of the key, key, value    set: answers OK
    G, key                                                get: answers + and the value, or - when there is none
    D, key                                                delete: answers OK, or - when there was none

One process holds the store: keep `--workers 1`. Under fork and prefork each process would have a store of its own.
"""

import pronghorn

store: dict[bytes, bytes] = {}


@pronghorn.message(pronghorn.prefixed(4))
def handler(message: bytes) -> bytes:
    verb, rest = message[:1], message[1:]
    if verb == b"S" and rest and len(rest) > rest[0]:
        end = 1 + rest[0]
        store[rest[1:end]] = rest[end:]
        return b"OK"
    if verb == b"G":
        value = store.get(rest)
        return b"-" if value is None else b"+" + value
    if verb == b"D":
        return b"-" if store.pop(rest, None) is None else b"OK"
    raise ValueError(f"no such request: {message[:20]!r}")  # closes this connection and no other
