"""What a thread or a program waits for, by its system call: for its client, or for something else (Linux).

Law: another flow of control looks now and then while a server drains, so that a conversation costs nothing more. Linux
names the system call that a thread waits in (proc_pid_syscall(5)); elsewhere, and for a process that may not be
inspected, the answer is UNKNOWN.
"""

from __future__ import annotations

import enum
import os
import select
import struct
import sys

from pronghorn.system.processes import children_of


class WaitsFor(enum.Enum):
    """What a thread or a program waits for."""

    CLIENT = "waits for the client and for nothing else"
    OTHERS = "waits for another process, of which the same can be asked"
    ELSEWHERE = "computes, sleeps, or waits for something else"
    UNKNOWN = "cannot be told"


CLIENT, OTHERS, ELSEWHERE, UNKNOWN = WaitsFor
READS = {
    "x86_64": {0, 19, 45, 47, 299},  # read, readv, recvfrom, recvmsg, recvmmsg: asm/unistd_64.h
    "aarch64": {63, 65, 207, 212, 243},
}
POLLS = {"x86_64": {7, 271}, "aarch64": {73}}  # poll, ppoll
MANY = {"x86_64": {23, 232, 270, 281, 441}, "aarch64": {22, 72, 441}}  # select, epoll_wait and their like
EPOLLS = {"x86_64": {232, 281, 441}, "aarch64": {22, 441}}  # epoll_wait, epoll_pwait, epoll_pwait2
DEATHS = {"x86_64": {61, 247}, "aarch64": {95, 260}}  # wait4, waitid
MACHINE = os.uname().machine if sys.platform == "linux" and sys.maxsize > 2**32 else ""
MOST_POLLED = 64


def of_thread(thread: int, fd: int) -> WaitsFor:
    """What a thread of this process does, by its native id, if descriptor `fd` is its client."""
    return _waits_for(f"/proc/self/task/{thread}", "/proc/self", _link("/proc/self", fd))


def of_program(pid: int, fd: int) -> WaitsFor:
    """The same of a program and all that it has started: CLIENT if one of them waits for the client, and the others for
    each other."""
    client, places = _link("/proc/self", fd), set()
    for each in _family(pid):
        home = f"/proc/{each}"
        try:
            threads = os.listdir(f"{home}/task")
        except OSError:
            continue  # it has ended
        places |= {_waits_for(f"{home}/task/{thread}", home, client) for thread in threads}
    for place in (ELSEWHERE, UNKNOWN, CLIENT):
        if place in places:
            return place
    return UNKNOWN


def _waits_for(task: str, home: str, client: str) -> WaitsFor:
    if MACHINE not in READS or not client:
        return UNKNOWN
    try:
        with open(f"{task}/syscall") as file:
            words = file.read().split()
    except OSError:
        return UNKNOWN
    if len(words) < 3 or words[0] == "-1":
        return ELSEWHERE  # it runs
    number, first, second = int(words[0]), int(words[1], 16), int(words[2], 16)
    if number in READS[MACHINE]:
        link = _link(home, first)
        return CLIENT if link == client else OTHERS if link.startswith("pipe:") else ELSEWHERE
    if number in DEATHS[MACHINE]:
        return OTHERS
    if number in POLLS[MACHINE]:
        return _polled(home, first, second, client)
    if number in EPOLLS[MACHINE] and _sends(home, first, client):
        return ELSEWHERE
    return UNKNOWN if number in MANY[MACHINE] else ELSEWHERE


def _polled(home: str, address: int, count: int, client: str) -> WaitsFor:
    """The same for poll(2): its array of descriptors is read from the process's memory."""
    if not 0 < count <= MOST_POLLED:
        return UNKNOWN if count else ELSEWHERE
    try:
        with open(f"{home}/mem", "rb", buffering=0) as memory:
            raw = os.pread(memory.fileno(), 8 * count, address)
    except OSError:
        return UNKNOWN
    polled = {_link(home, fd): events for fd, events, _ in struct.iter_unpack("ihh", raw[: len(raw) // 8 * 8])}
    if client not in polled:
        return ELSEWHERE
    return CLIENT if len(polled) == 1 and polled[client] & select.POLLIN else UNKNOWN


def _sends(home: str, epoll: int, client: str) -> bool:
    """Whether an epoll set waits for room in another socket than the client's, as an FTP server does that sends a file
    over a second connection (proc_pid_fdinfo(5))."""
    try:
        with open(f"{home}/fdinfo/{epoll}") as file:
            lines = [line.split() for line in file if line.startswith("tfd:")]
    except OSError:
        return False
    links = (_link(home, int(words[1])) for words in lines if int(words[3], 16) & select.EPOLLOUT)
    return any(link.startswith("socket:") and link != client for link in links)


def _link(home: str, fd: int) -> str:
    """The file behind a descriptor as /proc names it: `socket:[123]`."""
    try:
        return os.readlink(f"{home}/fd/{fd}")
    except OSError:
        return ""


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        found += children_of(each)
    return found
