"""PROXY headers that no setting has asked for: seen at the first connections of a worker, and told once per listener.

Law: the first bytes of a connection are looked at and left where they are, where it is accepted. A proxy sends the
header with the end of the handshake or right behind it, so only the first few connections of a worker are waited for,
a millisecond each. After LOOKS connections to each listener nobody looks any more, and accepting costs what it did.
"""

from __future__ import annotations

import _socket
import os

from pronghorn.connection.proxy_protocol import SIGNATURE
from pronghorn.events import ProxyHeaderUnread
from pronghorn.listening.listener import Listener
from pronghorn.peers import Peer
from pronghorn.scoreboard.map import H_UNREAD_HEADERS
from pronghorn.serving.admission import Admission

LOOKS = 100
"""Connections of a worker at each of its listeners, in the mean."""
WAITS, WAIT = 3, 0.001
"""How many of a worker's connections may have to wait for their first byte, and for how many seconds."""
BITS = 60  # listeners that are told apart, by their order
VERSIONS = {b"PROXY ": 1, SIGNATURE: 2}
LONGEST = max(map(len, VERSIONS))


def look_for_headers(admission: Admission) -> None:
    """Have the admission tell of a PROXY header that is not read, in its first connections."""
    accept, words = admission.accept, admission.row.map.words
    places = {listener: 1 << place % BITS for place, listener in enumerate(admission.listeners)}
    left = whole = LOOKS * len(places)

    def looking(listener: Listener) -> tuple[int, Peer] | None:
        nonlocal left
        got = accept(listener)
        if got is None:
            return None
        first = left > whole - WAITS
        left -= 1
        if left <= 0:
            vars(admission).pop("accept", None)
        told = words[H_UNREAD_HEADERS]
        if not told & places[listener] and (version := _version(listener, got[0], first)):
            offer = admission.offers[listener]
            if not offer.service.limits.is_proxy(got[1]):
                words[H_UNREAD_HEADERS] = told | places[listener]
                admission.observe(ProxyHeaderUnread(listener.address, got[1], version, offer.told))
        return got

    vars(admission)["accept"] = looking


def _version(listener: Listener, fd: int, waits: bool) -> int:
    """The version of the PROXY header that a connection begins with; 0 if it begins otherwise, or has no byte yet."""
    blocks = os.get_blocking(fd)
    sock = _socket.socket(listener.family, _socket.SOCK_STREAM, 0, fd)  # gevent has its own of the other modules
    try:
        sock.settimeout(WAIT if waits else 0.0)
        first = sock.recv(LONGEST, _socket.MSG_PEEK)
    except OSError:
        return 0
    finally:
        os.set_blocking(sock.detach(), blocks)
    return next((version for begin, version in VERSIONS.items() if first.startswith(begin)), 0)
