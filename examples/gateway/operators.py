"""The operators' side of the gateway: lines of text. `devices`, `send DEVICE TEXT`, `state COMMAND`, `track DEVICE`."""

from __future__ import annotations

from collections.abc import Iterator

from store import Store

import pronghorn


def lifespan() -> Iterator[Store]:
    store = Store()
    try:
        yield store
    finally:
        store.close()


@pronghorn.lifespan(lifespan)
@pronghorn.message(pronghorn.lines)
def operator(line: bytes, conn: pronghorn.MessageConnection) -> bytes:
    store: Store = conn.lifespan
    match line.decode("utf-8", "replace").split(maxsplit=2):
        case ["devices"]:
            return " ".join(f"{name}:{'on' if online else 'off'}" for name, online in store.devices()).encode() or b"-"
        case ["send", device, text]:
            return b"command %d" % store.add_command(device, text)
        case ["state", number] if number.isdigit():
            return store.state(int(number)).encode()
        case ["track", device]:
            return " ".join(f"{lat},{lon}" for _, lat, lon in store.positions(device)).encode() or b"-"
    return b"devices | send DEVICE TEXT | state COMMAND | track DEVICE"
