"""Who holds an address: for the message when it cannot be bound.

Law: look, never touch; guess nothing. Whatever cannot be found out (psutil is not there, the system does not tell, the
socket is bound and does not listen) is left out, down to an empty answer.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pronghorn.addresses import WILDCARDS, Bind, parse_bind, places
from pronghorn.errors import PronghornError

Row = Any
"""psutil's record of one socket: family, laddr, status, pid."""

LONGEST_COMMAND = 80
NOBODY = "no process holds it"
MOST_NAMED = 3
WORKER = re.compile(r"pronghorn: worker \d+ \S+ of (\d+)")
UNSEEN = "a process that this user may not see"
ORPHANED = {"FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSING", "LAST_ACK"}
"""The states in which the kernel keeps a connection that no process has any more (RFC 9293, 3.3.2)."""


def explain(address: str) -> str:
    """Who holds `address` (written as for `--bind`), in a few words; "" when nothing is known.

    Such as `held by process 4242 (python3 -m http.server 8000)`, or `no process holds it: 1 connection of an earlier
    server is in FIN_WAIT2, 3 in TIME_WAIT`. It reads the tables of all connections: some tenths of a second when there
    are tens of thousands.
    """
    rows = _rows(address)
    return _holders(rows) if address.startswith("unix:") else _tcp(rows)


def held_by_orphans(address: str) -> bool:
    """Whether those who listen at `address` are workers of a server whose supervisor is gone: they notice, and let go.

    A worker says in its title whose it is, and an orphan is another's child.
    """
    rows = _rows(address)
    listening = rows if address.startswith("unix:") else [each for each in rows if each.status == "LISTEN"]
    return bool(listening) and all(_is_orphan(each.pid) for each in listening)


def _is_orphan(pid: int | None) -> bool:
    import psutil

    if not pid:
        return False
    try:
        process = psutil.Process(pid)
        title = WORKER.fullmatch(" ".join(process.cmdline()).strip())
        return title is not None and process.ppid() != int(title[1])
    except (psutil.Error, OSError):
        return False


def _rows(address: str) -> list[Row]:
    """The sockets in the way of `address`; none when nothing is known."""
    try:
        import psutil
    except ImportError:
        return []
    try:
        bind = parse_bind(address)
        if bind.path:
            return _of_path(bind.path, psutil.net_connections("unix"))
        return _of_port(bind, psutil.net_connections("tcp"))
    except (PronghornError, psutil.Error, OSError, RuntimeError):
        return []


def _of_path(path: str, connections: Iterable[Row]) -> list[Row]:
    spellings = {path, os.path.abspath(path), os.path.realpath(path)}
    return [each for each in connections if each.laddr in spellings]


def _of_port(bind: Bind, connections: Iterable[Row]) -> list[Row]:
    """What has an address in the way of this one; a dual-stack [::] counts for IPv4 when nothing of IPv4 is there."""
    there = [each for each in connections if each.laddr and each.laddr.port == bind.port]
    for family, (host, *_) in places(bind):
        hosts = WILDCARDS | {host, f"::ffff:{host}"}
        near = [each for each in there if host in WILDCARDS or each.laddr.ip.partition("%")[0] in hosts]
        same = [each for each in near if each.family == family]
        dual = [each for each in near if family == socket.AF_INET and each.family != family]
        if same or dual:
            return same or dual
    return []


def _tcp(connections: list[Row]) -> str:
    listening = [each for each in connections if each.status == "LISTEN"]
    if listening:
        return _holders(listening)
    owned = [each for each in connections if each.pid or each.status not in ORPHANED]
    if owned:
        return f"{_holders(owned)}: {_states(owned, '')}"
    if connections:
        return f"{NOBODY}: {_states(connections, ' of an earlier server')}"
    return ""


def _states(connections: list[Row], whose: str) -> str:
    (state, count), *others = sorted(Counter(each.status for each in connections).items())
    first = f"1 connection{whose} is in {state}" if count == 1 else f"{count} connections{whose} are in {state}"
    return ", ".join([first, *(f"{count} in {state}" for state, count in others)])


def _holders(connections: list[Row]) -> str:
    if not connections:
        return ""
    pids = sorted({each.pid for each in connections if each.pid})
    named = [_process(pid) for pid in pids[:MOST_NAMED]] or [UNSEEN]
    more = f" and {len(pids) - MOST_NAMED} more" if len(pids) > MOST_NAMED else ""
    return f"held by {', '.join(named)}{more}"


def _process(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline()).strip(" ") or process.name()
    except (psutil.Error, OSError):
        return f"process {pid}"
    command = "".join(character if character.isprintable() else "?" for character in command)
    if len(command) > LONGEST_COMMAND:
        command = command[:LONGEST_COMMAND].rstrip() + "…"
    return f"process {pid} ({command})"
