"""The sockets that are in the way of an address, and the processes that have them open.

Law: look, never touch; guess nothing. What cannot be found out (the system does not tell, the process is another
user's) is left out, down to an empty answer. Linux is asked over netlink, for that port alone; elsewhere psutil reads
the table of all connections.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

from pronghorn.errors import PronghornError
from pronghorn.listening import sock_diag, unix_state
from pronghorn.listening.addresses import WILDCARDS, Place, parse_bind, places
from pronghorn.listening.sock_diag import LISTENING, OTHERS, Sockets
from pronghorn.system.process_facts import process_facts

EVERY = LISTENING | OTHERS
WORKER = re.compile(r"pronghorn: worker \d+ \S+ of (\d+)")
ORPHANED = {"FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSING", "LAST_ACK"}
"""The states in which the kernel keeps a connection that no process has any more (RFC 9293, 3.3.2)."""


class Holders(NamedTuple):
    """The processes that have sockets open, by their number; and those sockets whose processes cannot be seen."""

    pids: list[int]
    unseen: list[Sockets]


def held_by_orphans(address: str) -> bool:
    """Whether all processes that listen at `address`, as `--bind` takes it, are workers whose supervisor is gone: they
    let go in a moment.

    A worker's title has the process id of its supervisor, and an orphan is another process's child.
    """
    try:
        there = [each for place in places(parse_bind(address)) for each in in_the_way(place, LISTENING)]
    except (PronghornError, OSError):
        return False
    pids, unseen = holders(there)
    return bool(pids) and not unseen and all(map(is_orphan, pids))


def is_orphan(pid: int) -> bool:
    """Whether that process is a worker whose supervisor has ended."""
    facts = process_facts(pid)
    title = WORKER.fullmatch(facts.command)
    return title is not None and facts.parent != int(title[1])


def in_the_way(place: Place, states: int = EVERY) -> list[Sockets]:
    """The sockets in those states that are in the way of a bind there. Raises OSError if the system does not tell."""
    family, address = place
    if family == socket.AF_UNIX:
        return _of_path(address)
    return [each for each in _at_port(address[1], states) if _meet(place, each)]


def _meet(place: Place, each: Sockets) -> bool:
    """Whether they are in each other's way; a dual-stack [::] has IPv4 too (RFC 3493, 5.3)."""
    family, address = place
    host, there = (_plain(one) for one in (address[0], each.host))
    device = address[3] if len(address) > 3 else 0
    if device and each.device and device != each.device:
        return False
    if each.family == family:
        return host == there or not WILDCARDS.isdisjoint((host, there))
    if family != socket.AF_INET:
        return False
    if there == "::":
        return each.both is not False
    return there.startswith("::ffff:") and host in ("0.0.0.0", there.removeprefix("::ffff:"))


def _plain(host: str) -> str:
    """Without its zone, and as every other spelling of it."""
    host = host.partition("%")[0]
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host)) if ":" in host else host


def _at_port(port: int, states: int) -> list[Sockets]:
    try:
        return sock_diag.at_port(port, states)
    except OSError:
        return _by_psutil(port, states)


def _by_psutil(port: int, states: int) -> list[Sockets]:
    """The same out of the table of all connections. Raises OSError."""
    found: dict[tuple[int, str, str, bool], Sockets] = {}
    for row in _table("tcp"):
        wanted = LISTENING if row.status == "LISTEN" else OTHERS
        if row.laddr and row.laddr.port == port and states & wanted:
            key = (int(row.family), row.laddr.ip, row.status, bool(row.pid) or row.status not in ORPHANED)
            peer = f"{row.raddr.ip}:{row.raddr.port}" if row.raddr else ""
            one = found.get(key) or Sockets(*key, number=0, peer=peer)
            found[key] = one._replace(number=one.number + 1, pids={*one.pids, row.pid} - {None})
    return list(found.values())


def _table(family: str) -> Any:
    try:
        import psutil
    except ImportError as error:
        raise OSError(str(error)) from None
    try:
        return psutil.net_connections(family)
    except (psutil.Error, RuntimeError) as error:
        raise OSError(str(error)) from None


def _of_path(path: str | bytes) -> list[Sockets]:
    """Those bound to the path of a unix socket, or to an abstract name; connections, which bear it too, are left out.
    Raises OSError."""
    if isinstance(path, bytes):
        spellings = {b"@" + path[1:]}
        path = f"@{os.fsdecode(path[1:])}"
    else:
        spellings = {os.fsencode(each) for each in (path, os.path.abspath(path), os.path.realpath(path))}
    try:
        rows = [row for row in unix_state.table() if row.alone and row.path in spellings]
    except FileNotFoundError:
        return _of_path_by_psutil(path, spellings)
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault("LISTEN" if row.listens else sock_diag.BOUND, set()).add(row.inode)
    ours = sock_diag.own() if found else set()
    # A path that was taken from us still stands with the socket we have.
    return [_unix(path, state, inodes - ours or inodes) for state, inodes in sorted(found.items(), reverse=True)]


def _unix(path: str, state: str, inodes: set[int]) -> Sockets:
    try:
        user, waiting, backlog = sock_diag.unix_socket(min(inodes))
    except OSError:
        user, waiting, backlog = None, 0, 0
    return Sockets(
        socket.AF_UNIX,
        path,
        state,
        True,
        user,
        number=len(inodes),
        inodes=inodes,
        waiting=waiting,
        backlog=backlog,
    )


def _of_path_by_psutil(path: str, spellings: set[bytes]) -> list[Sockets]:
    pids = {row.pid for row in _table("unix") if os.fsencode(row.laddr) in spellings}
    return [Sockets(socket.AF_UNIX, path, "LISTEN", True, pids=pids - {None})] if pids else []


def holders(sockets: Iterable[Sockets]) -> Holders:
    """The processes that have them open, as far as this user may see."""
    sockets = list(sockets)
    found = sock_diag.holders({inode for each in sockets for inode in each.inodes})
    pids: set[int] = set()
    unseen: list[Sockets] = []
    for each in sockets:
        its = set(each.pids).union(*(found.get(inode, ()) for inode in each.inodes))
        pids |= its
        if not its:
            unseen.append(each)
    return Holders(sorted(pids), unseen)
