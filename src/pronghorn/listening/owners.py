"""The processes, and the connections in TIME_WAIT and the like, that keep an address from being bound.

Law: look, never touch; guess nothing. What cannot be found out (the system does not tell, the process is another
user's) is left out, down to an empty answer. Linux is asked over netlink, for that port alone; elsewhere psutil reads
the table of all connections.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pronghorn.errors import PronghornError
from pronghorn.listening import sock_diag
from pronghorn.listening.addresses import WILDCARDS, Bind, parse_bind, places
from pronghorn.listening.sock_diag import BOUND, LISTENING, OTHERS, Sockets

LONGEST_COMMAND = 80
NOBODY = "no process holds it"
MOST_NAMED = 3
WORKER = re.compile(r"pronghorn: worker \d+ \S+ of (\d+)")
UNCONNECTED = b"01"  # linux/net.h: SS_UNCONNECTED
UNSEEN = "a process that this user may not see"
ORPHANED = {"FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSING", "LAST_ACK"}
"""The states in which the kernel keeps a connection that no process has any more (RFC 9293, 3.3.2)."""


def explain(address: str) -> str:
    """Who holds `address` (written as for `--bind`), in a few words; "" when nothing is known.

    Such as `held by process 4242 (python3 -m http.server 8000)`, or `no process holds it: 1 connection of an earlier
    server is in FIN_WAIT2, 3 in TIME_WAIT`.
    """
    listening = _in_the_way(address, LISTENING)
    if listening:
        return _held_by(listening)
    others = _in_the_way(address, OTHERS)
    owned = [each for each in others if each.owned]
    bound = [each for each in owned if each.state == BOUND]
    if bound:
        return f"{_held_by(bound)}, bound but not listening"
    if owned:
        return f"{_held_by(owned)}: {_states(owned, '')}"
    return f"{NOBODY}: {_states(others, ' of an earlier server')}" if others else ""


def held_by_orphans(address: str) -> bool:
    """Whether all processes that listen at `address` are workers whose supervisor is gone: they let go in a moment.

    A worker's title has the process id of its supervisor, and an orphan is another process's child.
    """
    pids, unseen = _processes(_in_the_way(address, LISTENING))
    return bool(pids) and not unseen and all(map(_is_orphan, pids))


def _is_orphan(pid: int) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        title = WORKER.fullmatch(" ".join(process.cmdline()).strip())
        return title is not None and process.ppid() != int(title[1])
    except (psutil.Error, OSError):
        return False


def _in_the_way(address: str, states: int) -> list[Sockets]:
    """The sockets in those states that are in the way of `address`; none when nothing is known."""
    try:
        bind = parse_bind(address)
        if bind.path:
            return _of_path(bind.path) if states == LISTENING else []
        return _of_bind(bind, _at_port(bind.port, states))
    except (PronghornError, OSError, ImportError):
        return []


def _of_bind(bind: Bind, there: list[Sockets]) -> list[Sockets]:
    """What has an address in the way of this one; a dual-stack [::] counts for IPv4 when nothing of IPv4 is there."""
    for family, (host, *_) in places(bind):
        hosts = WILDCARDS | {host, f"::ffff:{host}"}
        near = [each for each in there if host in WILDCARDS or each.host.partition("%")[0] in hosts]
        same = [each for each in near if each.family == family]
        dual = [each for each in near if family == socket.AF_INET and each.family != family]
        if same or dual:
            return same or dual
    return []


def _at_port(port: int, states: int) -> list[Sockets]:
    try:
        return sock_diag.at_port(port, states)
    except OSError:
        return _by_psutil(port, states)


def _by_psutil(port: int, states: int) -> list[Sockets]:
    """The same out of the table of all connections. Raises ImportError and OSError."""
    import psutil

    found: list[Sockets] = []
    for row in _table(psutil, "tcp"):
        if row.laddr and row.laddr.port == port and (row.status == "LISTEN") == (states == LISTENING):
            owned, pids = bool(row.pid) or row.status not in ORPHANED, {row.pid} - {None}
            found.append(Sockets(row.family, row.laddr.ip, row.status, owned, pids=pids))
    return found


def _table(psutil: Any, family: str) -> Any:
    try:
        return psutil.net_connections(family)
    except (psutil.Error, RuntimeError) as error:
        raise OSError(str(error)) from None


def _of_path(path: str) -> list[Sockets]:
    """Those bound to the path of a unix socket; connections, which bear it too, are left out. Raises ImportError and
    OSError."""
    spellings = {os.fsencode(each) for each in (path, os.path.abspath(path), os.path.realpath(path))}
    try:
        with open("/proc/net/unix", "rb") as table:
            rows = [line.rstrip(b"\n").split(maxsplit=7) for line in table]
    except FileNotFoundError:
        return _of_path_by_psutil(spellings)
    inodes = {int(row[6]) for row in rows if row[7:] and row[7] in spellings and row[5] == UNCONNECTED}
    inodes = inodes - sock_diag.own() or inodes  # a path that was taken from us still stands with the socket we have
    return [Sockets(socket.AF_UNIX, path, "LISTEN", True, inodes=inodes)] if inodes else []


def _of_path_by_psutil(spellings: set[bytes]) -> list[Sockets]:
    import psutil

    pids = {row.pid for row in _table(psutil, "unix") if os.fsencode(row.laddr) in spellings}
    return [Sockets(socket.AF_UNIX, "", "LISTEN", True, pids=pids - {None})] if pids else []


def _states(connections: list[Sockets], whose: str) -> str:
    counts: Counter[str] = Counter()
    for each in connections:
        counts[each.state] += each.number
    (state, count), *others = sorted(counts.items())
    first = f"1 connection{whose} is in {state}" if count == 1 else f"{count} connections{whose} are in {state}"
    return ", ".join([first, *(f"{count} in {state}" for state, count in others)])


def _held_by(sockets: list[Sockets]) -> str:
    pids, unseen = _processes(sockets)
    named = [_process(pid) for pid in pids[:MOST_NAMED]] or unseen[:1]
    more = f" and {len(pids) - MOST_NAMED} more" if len(pids) > MOST_NAMED else ""
    return f"held by {', '.join(named)}{more}"


def _processes(sockets: Iterable[Sockets]) -> tuple[list[int], list[str]]:
    """The processes that have them open; and words for those that cannot be seen."""
    sockets = list(sockets)
    holders = sock_diag.holders({inode for each in sockets for inode in each.inodes})
    pids: set[int] = set()
    unseen: set[str] = set()
    for each in sockets:
        its = set(each.pids).union(*(holders.get(inode, ()) for inode in each.inodes))
        pids |= its
        if not its:
            unseen.add(UNSEEN if each.user is None else f"a process of user {each.user}, which this user may not see")
    return sorted(pids), sorted(unseen)


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
