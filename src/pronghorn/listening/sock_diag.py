"""The TCP sockets at one port, asked of the kernel over netlink (sock_diag(7)), and the processes that have them open.

Law: only the port in question is asked for, and sockets that differ in nothing but their peer are counted and not
listed: the answer is small however many connections there are. Listeners are found at once; for the other states the
kernel walks its tables, some milliseconds for tens of thousands of connections. Reading those whole, as psutil does,
took half a second and 5 MiB.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from typing import NamedTuple

BOUND = "BOUND"
STATES = (
    "ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT BOUND CLOSE_WAIT LAST_ACK LISTEN CLOSING "
    "NEW_SYN_RECV BOUND"
).split()
"""By the kernel's numbers, from 1 (net/tcp_states.h). What has had bind(2) and nothing else is asked for as 13, and
told as 7 (CLOSE)."""

LISTENING, OTHERS = 1 << 10, 0xFFFF & ~(1 << 10)  # states by bits; bit 13 asks for BOUND, since Linux 6.8
SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
BY_FAMILY, GET, DUMP, ERROR, DONE = 20, 0x1, 0x301, 2, 3  # linux/sock_diag.h, linux/netlink.h
HEAD = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, number, process id
REQUEST = struct.Struct("=BBBBIHH44s")  # inet_diag_req_v2: family, protocol, ..., states, source port, ...
ANY_PEER = bytes(36) + b"\xff" * 8
SOCKET = struct.Struct("=xBBxHxx16s16xI8xIIIII")
"""inet_diag_msg: state, timer, source port and address, interface, milliseconds to the end of the timer, receive and
send queue, user, inode."""
PEER = struct.Struct("=6xH16x16s")  # the same: destination port and address
ATTRIBUTE = struct.Struct("=HH")
IPV6_ONLY, CONTROL_GROUP = 11, 21  # INET_DIAG_SKV6ONLY, INET_DIAG_CGROUP_ID
TIMED, TIMERS_OF_AN_END = {"FIN_WAIT2", "TIME_WAIT"}, {2, 3}  # keepalive (an orphan's is its end), TIME_WAIT
QUEUES = struct.Struct("=xBxxHxx16s32xII8x")  # the same: state, source port and address, queue, backlog
UNIX_REQUEST = struct.Struct("=BxxxIII8s")  # unix_diag_req: family, states, inode, what to show, cookie
UNIX_HEAD, UNIX_SHOWN, UNIX_QUEUES, UNIX_USER = 16, 0x50, 4, 7  # linux/unix_diag.h
UNIX_QUEUE = struct.Struct("=II")
ERRNO = struct.Struct("=i")
LONGEST_REPLY = 65536
MOST_INODES = 256


class Sockets(NamedTuple):
    """Sockets at one address in one state; `owned` if processes have them open, and not only the kernel any more.

    Their processes are known by `pids`, or to be found by `inodes`, of which a few hundred are kept. `ends_within` are
    the seconds after which the last of those goes by itself that the kernel has a timer for. `group` is the number of
    the control group that one of them was made in (its folder's inode), `peer` whom one of them is connected to.
    `device` is the interface that they are bound to, `both` whether [::] takes IPv4 as well; None if unknown."""

    family: int
    host: str
    state: str
    owned: bool
    user: int | None = None
    number: int = 1
    inodes: Collection[int] = ()
    pids: Collection[int] = ()
    ends_within: float | None = None
    group: int = 0
    peer: str = ""
    device: int = 0
    both: bool | None = None
    waiting: int = 0
    backlog: int = 0


class AcceptQueue(NamedTuple):
    """One listening socket, how many connections wait in its queue for accept(2), and how many it takes (listen(2)).
    The kernel drops what comes when `waiting` is above `backlog`."""

    family: int
    host: str
    port: int
    waiting: int
    backlog: int


class Overflows(NamedTuple):
    """What the kernel has counted in this network namespace since it began, over all listeners: connections that came
    to a full accept queue, and all that listeners dropped, for that reason or another."""

    overflowed: int
    dropped: int


def accept_queues(ports: Collection[int]) -> list[AcceptQueue]:
    """The accept queues of all TCP sockets that listen at those ports, of whatever process; with SO_REUSEPORT an
    address has several. The kernel is asked for listeners only, some microseconds for each on the machine.

    Raises OSError where the kernel cannot be asked (no Linux, or no netlink).
    """
    found: list[AcceptQueue] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in _dump(family, next(iter(ports)) if len(ports) == 1 else 0, LISTENING):
            _, source_port, source, waiting, backlog = QUEUES.unpack_from(message)
            if (port := socket.ntohs(source_port)) in ports:
                found.append(AcceptQueue(int(family), _host(family, source), port, waiting, backlog))
    return found


def overflows() -> Overflows:
    """The kernel's counters ListenOverflows and ListenDrops (/proc/net/netstat). Raises OSError where there are
    none."""
    with open("/proc/net/netstat", "rb") as file:
        lines = [line.split() for line in file if line.startswith(b"TcpExt:")]
    counts = dict(zip(*lines, strict=True)) if len(lines) == 2 else {}
    try:
        return Overflows(int(counts[b"ListenOverflows"]), int(counts[b"ListenDrops"]))
    except KeyError:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None


def at_port(port: int, states: int) -> list[Sockets]:
    """The sockets with that local port in one of those states; raises OSError where the kernel cannot be asked."""
    found: dict[tuple[int, str, str, bool, int, int], _Alike] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in _dump(family, port, states):
            number, timer, at, source, device, ends, waiting, backlog, user, inode = SOCKET.unpack_from(message)
            if socket.ntohs(at) != port:
                continue  # of those that are BOUND the kernel tells all
            state = STATES[number - 1]
            key = (int(family), _host(family, source), state, bool(inode), user, device)
            alike = found.get(key)
            if alike is None:
                alike = found[key] = _Alike(_first(*key, message, backlog))
            alike.number += 1
            if inode:
                if len(alike.inodes) < MOST_INODES:
                    alike.inodes.add(inode)
            elif state in TIMED and timer in TIMERS_OF_AN_END:
                alike.last = max(alike.last, ends)
            if state == "LISTEN":
                alike.waiting += waiting
    return [each.sockets() for each in found.values()]


class _Alike:
    """Sockets that differ in little, while they are counted."""

    __slots__ = ("first", "inodes", "last", "number", "waiting")

    def __init__(self, first: Sockets) -> None:
        self.first = first
        self.number = 0
        self.inodes: set[int] = set()
        self.last = -1  # ms
        self.waiting = 0

    def sockets(self) -> Sockets:
        last = self.last / 1000 if self.last >= 0 else None
        return self.first._replace(number=self.number, inodes=self.inodes, ends_within=last, waiting=self.waiting)


def _first(
    family: int, host: str, state: str, owned: bool, user: int, device: int, message: memoryview, backlog: int
) -> Sockets:
    """What is told of the first of many."""
    group, both = 0, None if family == socket.AF_INET6 else False
    for what, value in _attributes(message[SOCKET.size :]):
        if what == CONTROL_GROUP:
            group = int.from_bytes(value, sys.byteorder)
        elif what == IPV6_ONLY:
            both = not value[0]
    port, packed = PEER.unpack_from(message)
    peer = _host(family, packed)
    peer = peer.removeprefix("::ffff:") if "." in peer else f"[{peer}]" if ":" in peer else peer
    peer = f"{peer}:{socket.ntohs(port)}" if port else ""
    queue = backlog if state == "LISTEN" else 0
    return Sockets(family, host, state, owned, user, group=group, peer=peer, device=device, both=both, backlog=queue)


def _attributes(rest: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kinds and values (netlink(7), struct nlattr)."""
    while len(rest) >= ATTRIBUTE.size:
        length, what = ATTRIBUTE.unpack_from(rest)
        if length < ATTRIBUTE.size:
            return
        yield what, rest[ATTRIBUTE.size : length]
        rest = rest[length + 3 & ~3 :]


def _host(family: int, packed: bytes) -> str:
    return socket.inet_ntop(family, packed[:4] if family == socket.AF_INET else packed)


class UnixSocket(NamedTuple):
    """A unix socket's user, and for one that listens its accept queue, as that of an AcceptQueue."""

    user: int | None
    waiting: int
    backlog: int


def unix_socket(inode: int) -> UnixSocket:
    """What the kernel tells of the unix socket with that inode, whosever it is. Raises OSError where the kernel cannot
    be asked, or there is no such socket."""
    request = UNIX_REQUEST.pack(socket.AF_UNIX, 0, inode, UNIX_SHOWN, b"\xff" * 8)
    for message in _asked(request, GET):
        told = dict(_attributes(message[UNIX_HEAD:]))
        user = int.from_bytes(told[UNIX_USER], sys.byteorder) if UNIX_USER in told else None
        waiting, backlog = UNIX_QUEUE.unpack(told[UNIX_QUEUES]) if UNIX_QUEUES in told else (0, 0)
        return UnixSocket(user, waiting, backlog)
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _dump(family: int, port: int, states: int) -> Iterator[memoryview]:
    """Each inet_diag_msg of the answer."""
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states, socket.htons(port), 0, ANY_PEER)
    return _asked(request, DUMP)


def _asked(request: bytes, flags: int) -> Iterator[memoryview]:
    """Each message of the answer; one alone is the whole answer of a GET."""
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as kernel:
        kernel.settimeout(1)
        kernel.sendall(HEAD.pack(HEAD.size + len(request), BY_FAMILY, flags, 1, 0) + request)
        while reply := memoryview(kernel.recv(LONGEST_REPLY)):
            while reply:
                length, what, *_ = HEAD.unpack_from(reply)
                body = reply[HEAD.size : length]
                if what == DONE:
                    return
                if what == ERROR:
                    number = -ERRNO.unpack_from(body)[0]
                    raise OSError(number, os.strerror(number))
                yield body
                if flags == GET:
                    return
                reply = reply[length + 3 & ~3 :]


def holders(inodes: Collection[int]) -> dict[int, set[int]]:
    """The processes that have each of those sockets open, as far as this user may see; an inode that is not there is
    nobody's whom we see."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, set[int]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")) if wanted else ():
        with contextlib.suppress(OSError):  # another's, or just gone
            missing = dict(wanted)
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                inode = missing.pop(_target(f"/proc/{process}/fd/{descriptor}"), None)
                if inode is not None:
                    found.setdefault(inode, set()).add(int(process))
                    if not missing:
                        break  # listeners come before thousands of connections
    return found


def own() -> set[int]:
    """The sockets that this process has open."""
    links = (_target(f"/proc/self/fd/{descriptor}") for descriptor in os.listdir("/proc/self/fd"))
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # closed meanwhile
