"""Who is at the other end of a unix socket, as the kernel says (unix(7))."""

from __future__ import annotations

import socket
import struct


def peer_uid(sock: socket.socket) -> int:
    """The effective user id of the process that connected; -1 if the kernel does not say."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            return int(struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        if hasattr(socket, "LOCAL_PEERCRED"):
            return int(struct.unpack_from("II", sock.getsockopt(0, socket.LOCAL_PEERCRED, 76))[1])
    except (OSError, struct.error):
        pass
    return -1
