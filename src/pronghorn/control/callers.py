"""Callers of the control socket: who the kernel says they are, and what members of `--control-group` may ask.

Law: the kernel says which user a caller is, and which groups it is in (unix(7)); nothing is looked up, since that could
wait. A member of the group may ask for all but to stop the server, and the log says who changed what.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from pronghorn.control.protocol import COMMANDS
from pronghorn.errors import BadRequest
from pronghorn.events import ControlAsked, Observer

SO_PEERGROUPS = 59  # Linux 4.13
LONGEST = 1024  # bytes that Python asks for at most: 256 groups; a caller who is in more is in none
ONLY_LOOK = frozenset({"status", "workers", "stats", "connections"})
MAY = frozenset(COMMANDS) - {"stop"}


class GroupCommands:
    """The CommandSet of a caller, user `uid`, who is admitted as a member of `group`."""

    def __init__(self, commands: object, uid: int, group: str, observe: Observer) -> None:
        self._commands = commands
        self._uid, self._group, self._observe = uid, group, observe

    def __getattr__(self, name: str) -> Callable[..., Any]:
        name = name.replace("_", "-")
        if name not in MAY:
            raise BadRequest(
                f"Members of group {self._group} may not {name} this server.",
                "Only its own user and root may: the group could not start it again.",
                "Ask for drain, or have the service manager stop it.",
            )
        if name not in ONLY_LOOK:
            self._observe(ControlAsked(name, self._uid, self._group))
        command: Callable[..., Any] = getattr(self._commands, name.replace("-", "_"))
        return command


def peer_groups(sock: socket.socket) -> set[int]:
    """The groups of the process that connected, its own and the supplementary ones; none if the kernel does not say."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            own = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[2]
            raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, LONGEST)
            return {own, *memoryview(raw[: len(raw) // 4 * 4]).cast("I")}
        if hasattr(socket, "LOCAL_PEERCRED"):  # struct xucred: version, uid, number of groups, groups
            raw = sock.getsockopt(0, socket.LOCAL_PEERCRED, 76)
            count = struct.unpack_from("h", raw, 8)[0]
            return set(struct.unpack_from(f"{max(0, min(count, 16))}I", raw, 12))
    except (OSError, struct.error):
        pass
    return set()
