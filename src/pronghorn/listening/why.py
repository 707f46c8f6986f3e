"""Why an address can or cannot be bound: a bind is tried, and what is in its way is told with its processes.

Law: the answer goes by the bind that was tried, without listening; the kernel's tables only explain it. So nothing is
promised of SO_REUSEADDR: whether it helps depends on the sockets that are there, and it was tried. What this user may
not see is told as such.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

from pronghorn.errors import CannotBind, printable
from pronghorn.listening import bind_trial, owners, sock_diag, unix_state
from pronghorn.listening.addresses import Bind, Place, parse_bind, places, spoken
from pronghorn.listening.bind_errors import lacks_address
from pronghorn.listening.owners import ORPHANED, WORKER
from pronghorn.listening.sock_diag import BOUND, Sockets
from pronghorn.system.process_facts import ProcessFacts, process_facts

MOST_OWNERS = 16
SUPERVISOR = "pronghorn: supervisor "
SCOREBOARD = "/memfd:pronghorn-"


class Verdict(enum.StrEnum):
    """Whether a server of this user could bind the address now."""

    FREE = "free"
    TAKEN = "taken"
    UNKNOWN = "unknown"


class Cause(enum.StrEnum):
    """What decides."""

    FREE = "free"
    LISTENER = "listener"
    BOUND = "bound"
    CONNECTION = "connection"
    LEFTOVER = "leftover"
    UNSEEN = "unseen"
    FORBIDDEN = "forbidden"
    ABSENT = "absent"
    FAILED = "failed"
    FILE = "file"
    STALE = "stale"
    LOCKED = "locked"
    FOLDER = "folder"


class Asked(NamedTuple):
    """The options of the listener that somebody wants to open."""

    reuse_address: bool = True
    reuse_port: bool = False
    tried: bool = True
    """Whether a bind may be tried; otherwise only listeners are known to be in the way."""


DEFAULT = Asked()


class Owner(NamedTuple):
    """A process that has the sockets open. `role` is what it is in a Pronghorn server: supervisor, worker, script (a
    server that a script runs) or nothing; `control` is the server's control socket."""

    facts: ProcessFacts
    role: str = ""
    control: str = ""
    left_behind: bool = False


class Finding(NamedTuple):
    """What was found at one address. `number` is the errno of the bind that was tried; `culprits` are the sockets that
    keep it from being bound, `sockets` all at that port that are near, `roots` those owners whose parent is none."""

    place: Place
    verdict: Verdict
    cause: Cause
    number: int = 0
    culprits: tuple[Sockets, ...] = ()
    sockets: tuple[Sockets, ...] = ()
    owners: tuple[Owner, ...] = ()
    unseen: tuple[Sockets, ...] = ()
    more_owners: int = 0
    shares: bool | None = None
    """Whether the listener there has SO_REUSEPORT; None if that is not known."""
    plainly: bool = True
    """Whether a bind without SO_REUSEADDR succeeds as well."""
    note: str = ""

    @property
    def address(self) -> str:
        return printable(spoken(self.place), 400, kept="")

    @property
    def roots(self) -> tuple[Owner, ...]:
        pids = {each.facts.pid for each in self.owners}
        return tuple(each for each in self.owners if each.facts.parent not in pids)


def bind_of(text: str) -> Bind:
    """What was asked about: an address as `--bind` takes it, or a bare port, which is that of every interface. Raises
    BadSetting."""
    return parse_bind(f":{text}" if text.isascii() and text.isdigit() else text)


def examine(bind: Bind, asked: Asked = DEFAULT) -> list[Finding]:
    """What keeps each address of `bind` from being bound, if anything does. Raises CannotBind for a name that does not
    resolve."""
    found = [examine_place(each, asked) for each in places(bind)]
    absent = [each for each in found if each.cause is Cause.ABSENT and each.place[0] == socket.AF_INET6]
    if len(absent) < len(found):  # as a server does that finds another address of the name
        found = [each for each in found if each not in absent]
    return found


def examine_place(place: Place, asked: Asked = DEFAULT) -> Finding:
    """The same for one address."""
    if place[0] == socket.AF_UNIX:
        return _examine_unix(place, asked)
    if place[1][1] == 0:
        return Finding(place, Verdict.FREE, Cause.FREE, note="Port 0 takes any free port.")
    seen = True
    try:
        near = tuple(owners.in_the_way(place))
    except OSError:
        near, seen = (), False
    if not asked.tried:
        return _looked_at(place, near, seen)
    number = bind_trial.bind_errno(place, reuse_address=asked.reuse_address, reuse_port=asked.reuse_port)
    if lacks_address(OSError(number, "")):
        return Finding(place, Verdict.TAKEN, Cause.ABSENT, number)
    if number == errno.EACCES and not any(each.state == "LISTEN" for each in near):
        return Finding(place, Verdict.TAKEN, Cause.FORBIDDEN, number)
    if number not in (0, errno.EACCES, errno.EADDRINUSE):
        return Finding(place, Verdict.UNKNOWN, Cause.FAILED, number)
    if number == 0:
        return _free(place, near)
    return _taken(place, near, number, asked)


def _looked_at(place: Place, near: tuple[Sockets, ...], seen: bool) -> Finding:
    listening = tuple(each for each in near if each.state == "LISTEN")
    if listening:
        return _with_owners(Finding(place, Verdict.TAKEN, Cause.LISTENER, culprits=listening, sockets=near))
    return Finding(place, Verdict.FREE if seen else Verdict.UNKNOWN, Cause.FREE if seen else Cause.FAILED)


def _free(place: Place, near: tuple[Sockets, ...]) -> Finding:
    finding = Finding(place, Verdict.FREE, Cause.FREE, sockets=near)
    if near:
        plainly = bind_trial.bind_errno(place, reuse_address=False) == 0
        owned = tuple(each for each in near if each.owned)
        finding = _with_owners(finding._replace(plainly=plainly, culprits=owned))
    return finding


def _taken(place: Place, near: tuple[Sockets, ...], number: int, asked: Asked) -> Finding:
    kinds = {
        Cause.LISTENER: [each for each in near if each.state == "LISTEN"],
        Cause.BOUND: [each for each in near if each.state == BOUND],
        Cause.CONNECTION: [each for each in near if each.owned],
        Cause.LEFTOVER: [each for each in near if each.state in ORPHANED],
    }
    cause, culprits = next(((cause, each) for cause, each in kinds.items() if each), (Cause.UNSEEN, []))
    finding = Finding(place, Verdict.TAKEN, cause, number, tuple(culprits), near)
    if cause is Cause.UNSEEN:
        return _unseen(finding)
    finding = _with_owners(finding)
    if cause is Cause.LISTENER:
        finding = finding._replace(shares=_shares(finding, asked))
    elif cause in (Cause.LEFTOVER, Cause.CONNECTION) and not asked.reuse_address:
        helps = bind_trial.bind_errno(place) == 0
        finding = finding._replace(note="reuse-address" if helps else "")
    return finding


def _unseen(finding: Finding) -> Finding:
    """Taken by what the system does not show: a socket that is bound and no more, before Linux 6.8, is found by a look
    at every socket that this user may copy."""
    family, address = finding.place
    pids = [int(each) for each in os.listdir("/proc") if each.isdigit()] if os.path.isdir("/proc/self/fd") else []
    found = bind_trial.bound_to(address[1], pids)
    if not found:
        return finding
    host = next(iter(found.values()))[0]
    sockets = (Sockets(family, host, BOUND, True, number=sum(map(len, found.values())), pids=tuple(found)),)
    return _with_owners(finding._replace(cause=Cause.BOUND, culprits=sockets, sockets=sockets))


def _shares(finding: Finding, asked: Asked) -> bool | None:
    """Whether the listener has SO_REUSEPORT: its socket says so, or a bind with it that succeeds."""
    inodes = [inode for each in finding.culprits for inode in each.inodes]
    for owner in finding.owners[:1]:
        for inode in inodes[:4]:
            options = bind_trial.options_of(owner.facts.pid, inode)
            if options is not None:
                return options.reuse_port
    if not asked.reuse_port and bind_trial.bind_errno(finding.place, reuse_port=True) == 0:
        return True
    user = {each.user for each in finding.culprits}
    return False if user == {os.geteuid()} else None


def _with_owners(finding: Finding) -> Finding:
    try:
        pids, unseen = owners.holders(finding.culprits)
    except OSError:
        pids, unseen = [], list(finding.culprits)
    known = [process_facts(pid) for pid in pids[:MOST_OWNERS]]
    found = tuple(_owner(each, set(pids)) for each in known)
    return finding._replace(owners=found, unseen=tuple(unseen), more_owners=len(pids) - len(found))


def _owner(facts: ProcessFacts, pids: set[int]) -> Owner:
    title = WORKER.fullmatch(facts.command)
    if title is not None:
        return Owner(facts, "worker", left_behind=facts.parent != int(title[1]))
    role = "supervisor" if facts.command.startswith(SUPERVISOR) else "script" if _has_board(facts.pid) else ""
    control = _control_of(facts.pid) if role else ""
    return Owner(facts, role, control, facts.parent not in pids and _is_left_behind(facts))


def _is_left_behind(facts: ProcessFacts) -> bool:
    """Whether the process that forked it has ended: the first of its group is gone, and its parent is of another
    session. So are daemons that fork twice."""
    leader, parent = facts.group_leader, facts.parent
    if not leader or not parent or leader == facts.pid:
        return False
    try:
        os.kill(leader, 0)
        return False
    except ProcessLookupError:
        pass
    except OSError:
        return False
    try:
        return os.getsid(parent) != os.getsid(facts.pid)
    except OSError:
        return False


def _links(pid: int) -> Iterable[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names[:256]:  # a server opens these first
        try:
            yield os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue


def _has_board(pid: int) -> bool:
    return any(link.startswith(SCOREBOARD) for link in _links(pid))


def _control_of(pid: int) -> str:
    """The path of a control socket: a unix socket on which that process alone listens."""
    mine = {int(link[8:-1]) for link in _links(pid) if link.startswith("socket:[")}
    try:
        rows = [each for each in unix_state.table() if each.listens and each.inode in mine]
        paths = {each.inode: os.fsdecode(each.path) for each in rows if each.path.startswith(b"/")}
        shared = sock_diag.holders(paths)
    except OSError:
        return ""
    alone = [path for inode, path in paths.items() if shared.get(inode) == {pid}]
    return alone[0] if len(alone) == 1 else ""


def _examine_unix(place: Place, asked: Asked) -> Finding:
    """The same for a path, or an abstract name."""
    try:
        there = tuple(owners.in_the_way(place))
    except OSError:
        there = ()
    if not asked.tried and not there:
        return Finding(place, Verdict.FREE, Cause.FREE)
    state = unix_state.state_of(place[1], there)
    verdict, cause = Verdict(state.verdict), Cause(state.cause)
    finding = Finding(place, verdict, cause, sockets=there, note=state.note)
    if cause in (Cause.LISTENER, Cause.BOUND):
        if not there and state.pid:
            there = (Sockets(socket.AF_UNIX, "", "LISTEN", True, pids=(state.pid,)),)
        finding = _with_owners(finding._replace(culprits=there, sockets=there))
    elif cause is Cause.LOCKED and state.pid:
        finding = finding._replace(owners=(_owner(process_facts(state.pid), set()),))
    return finding


def decisive(found: list[Finding]) -> Finding:
    """The one that decides what is said of them all: what is taken, or not known, comes before what is free."""
    order = (Verdict.TAKEN, Verdict.UNKNOWN, Verdict.FREE)
    return min(found, key=lambda each: order.index(each.verdict))


def resolved(text: str) -> tuple[Bind, list[Place]]:
    """A bind and its addresses. Raises BadSetting, and CannotBind for a name that does not resolve and a descriptor."""
    bind = bind_of(text)
    group = places(bind)
    if not group:
        why = "A descriptor is open in one process only, and has no place where another could be."
        raise CannotBind(f"{text} is no address.", why, "Ask for the address that it is bound to.", text)
    return bind, group
