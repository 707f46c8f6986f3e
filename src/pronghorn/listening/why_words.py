"""The words of `why`: what keeps an address from being bound, in sentences, and what to do, as one command.

Law: one vocabulary for `pronghorn why` and for a bind that failed. A command is only offered if it does what the
sentence before it says, on this machine and for this user.
"""

from __future__ import annotations

import errno
import math
import os
import shlex
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pronghorn.errors import printable
from pronghorn.listening.addresses import WILDCARDS, spoken
from pronghorn.listening.bind_errors import bind_error
from pronghorn.listening.sock_diag import BOUND, Sockets
from pronghorn.listening.why import DEFAULT, Asked, Cause, Finding, Owner, Verdict, decisive
from pronghorn.settings import Settings
from pronghorn.system.process_facts import Group, ProcessFacts, group_of_id, user_name

MOST_NAMED = 3
LONGEST = 2000  # characters of a sentence
ANOTHER_PORT = "or choose another port"


class Told(NamedTuple):
    """An answer in words: what is so, why (a sentence each), and what to do: `advice` ends with a colon if a `command`
    follows, which a shell takes as it stands."""

    what: str
    why: list[str]
    advice: str = ""
    command: str = ""

    @property
    def hint(self) -> str:
        """The advice and, on a line of its own, the command: as the end of an error."""
        return f"{self.advice}\n    {self.command}" if self.command else self.advice


def told(found: Sequence[Finding], asked: Asked = DEFAULT) -> Told:
    """What there is to say of all addresses that one bind stands for."""
    first = decisive(list(found))
    of_verdict = [each for each in found if each.verdict is first.verdict]
    names = ", ".join(each.address for each in of_verdict)
    are = "are" if len(of_verdict) > 1 else "is"
    if first.verdict is Verdict.FREE:
        return _safe(Told(f"{names} {are} free.", _notes(of_verdict)))
    told_of_it = _of_path(first) if first.place[0] == socket.AF_UNIX else _of_port(first, asked)
    what = f"{names} {are} taken." if _is_held(first) else f"{names} cannot be bound."
    if first.verdict is Verdict.UNKNOWN:
        what = f"Whether {names} {are} free cannot be told."
    free = [each.address for each in found if each.verdict is Verdict.FREE]
    also = [f"{' and '.join(free)} {'are' if len(free) > 1 else 'is'} free."] if free else []
    return _safe(Told(what, [*told_of_it.why, *also], told_of_it.advice, told_of_it.command))


def _safe(words: Told) -> Told:
    """For a terminal: paths and names are escaped, and a command that would have to be is left out."""
    why = [printable(each, LONGEST, kept="") for each in words.why]
    if words.command.isprintable():
        return words._replace(why=why)
    return words._replace(why=why, advice=f"{words.advice.rstrip(':')}.", command="")


def _is_held(finding: Finding) -> bool:
    return finding.cause not in (Cause.FORBIDDEN, Cause.ABSENT, Cause.FAILED, Cause.FOLDER)


def _notes(found: Sequence[Finding]) -> list[str]:
    """What there is to say of free addresses."""
    notes: list[str] = []
    for each in found:
        if each.cause is Cause.STALE:
            notes.append(
                "A server that is dead has left its socket there. Pronghorn replaces it; other servers want it removed "
                f"first: rm {shlex.quote(str(each.place[1]))}"
            )
        elif each.note:
            notes.append(each.note)
        if each.sockets:
            notes += [*_held_all_the_same(each), _rest(each.sockets)]
        if each.sockets and not each.plainly:
            notes.append(
                "A bind with SO_REUSEADDR was tried, and succeeds; one without it fails. Pronghorn binds with it."
            )
    return list(dict.fromkeys(note for note in notes if note))


def _held_all_the_same(finding: Finding) -> list[str]:
    if not finding.owners and not finding.unseen:
        return []
    verb = "has" if len(finding.owners) + len(finding.unseen) == 1 else "have"
    return [f"{_subject(finding)} {verb} sockets of that port, none of which is in the way."]


def _of_port(finding: Finding, asked: Asked) -> Told:
    if finding.cause is Cause.LEFTOVER:
        return _leftover(finding)
    if finding.cause in (Cause.FORBIDDEN, Cause.ABSENT, Cause.FAILED):
        if not finding.number:
            return Told("", ["The system does not tell which sockets there are."])
        error = bind_error(OSError(finding.number, os.strerror(finding.number)), finding.place, Settings())
        return Told("", [error.why], error.hint)
    if finding.cause is Cause.UNSEEN:
        return _unseen(finding)
    lines = {Cause.LISTENER: _listener, Cause.BOUND: _bound, Cause.CONNECTION: _connection}[finding.cause](finding)
    lines += _facts(finding)
    lines += _reuse_port(finding, asked) if finding.cause is Cause.LISTENER else []
    if finding.note == "reuse-address":
        return Told("", lines, "With SO_REUSEADDR the bind succeeds, as was tried: leave out --no-reuse-address.")
    if finding.number == errno.EACCES:
        error = bind_error(OSError(finding.number, ""), finding.place, Settings())
        lines.append(error.why)
    rest = [each for each in finding.sockets if each not in finding.culprits]
    lines += [_rest(rest)] if rest else []
    return Told("", lines, *_what_to_do(finding))


def _listener(finding: Finding) -> list[str]:
    verb = "listens" if len(finding.owners) + finding.more_owners + len(finding.unseen) < 2 else "listen"
    return [f"{_subject(finding)} {verb} at {_where(finding)}."]


def _bound(finding: Finding) -> list[str]:
    verb = "has" if len(finding.owners) + finding.more_owners + len(finding.unseen) < 2 else "have"
    return [f"{_subject(finding)} {verb} bound {_where(finding)} without listening, which most tools do not show."]


def _connection(finding: Finding) -> list[str]:
    verb = "has" if len(finding.owners) + finding.more_owners + len(finding.unseen) < 2 else "have"
    peers = sorted({each.peer for each in finding.culprits if each.peer})
    to = f", to {peers[0]}" if len(peers) == 1 and sum(each.number for each in finding.culprits) == 1 else ""
    lines = [f"{_subject(finding)} {verb} that port without listening: {_counted(finding.culprits)}{to}."]
    low, high = _outgoing_ports()
    port = finding.place[1][1]
    if low <= port <= high:
        lines.append(
            f"Outgoing connections get their ports from {low} to {high} (ip_local_port_range): it is probably one of "
            "these."
        )
    return lines


def _leftover(finding: Finding) -> Told:
    lines = [f"No process holds it: {_counted(finding.culprits, ' of an earlier server')}."]
    if any(each.state == "FIN_WAIT2" for each in finding.culprits):
        lines.append("In FIN_WAIT2 the client has not closed its end; when it does, TIME_WAIT follows, a minute more.")
    if finding.note == "reuse-address":
        return Told("", lines, "With SO_REUSEADDR the bind succeeds, as was tried: leave out --no-reuse-address.")
    lines.append("A bind with SO_REUSEADDR was tried, and fails: the earlier server ran without it.")
    last = max((each.ends_within or 0.0 for each in finding.culprits), default=0.0)
    if not last:
        return Told("", lines, f"Wait until the kernel gives them up, {ANOTHER_PORT}.")
    return Told("", lines, f"Wait, {ANOTHER_PORT}:", f"sleep {math.ceil(last)}")


def _unseen(finding: Finding) -> Told:
    why = "No socket is seen that holds it: one that is bound and does not listen is shown since Linux 6.8 only."
    if sys.platform != "linux":
        why = "No socket is seen that holds it: one that is bound and does not listen is not shown here."
    if finding.note:
        why = finding.note
    if os.geteuid():
        return Told("", [why], "root sees more:", _as_root(finding))
    return Told("", [why], "Choose another port.")


def _reuse_port(finding: Finding, asked: Asked) -> list[str]:
    users = {each.user for each in finding.culprits} - {None}
    others = [each for each in users if each is not None and each != os.geteuid()]
    if finding.shares is False:
        both = ", and both need it" if asked.reuse_port else ""
        return [f"The listener is without SO_REUSEPORT{both}: no other can be beside it."]
    if (finding.shares or asked.reuse_port) and others:
        name = user_name(others[0])
        has = "The listener has SO_REUSEPORT, by which only" if finding.shares else "By SO_REUSEPORT only"
        return [f"{has} sockets of one user share an address, and this one is of {name}."]
    if finding.shares and not asked.reuse_port:
        return ["The listener has SO_REUSEPORT: a server of the same user that sets it as well can share the address."]
    return []


def _subject(finding: Finding) -> str:
    """`Process 1 (command), process 2 (command) and 3 more`; or who cannot be seen."""
    roots = finding.roots
    named = [f"process {each.facts.pid}{_command(each)}" for each in roots[:MOST_NAMED]]
    below = len(finding.owners) - len(roots) + finding.more_owners
    more = len(roots) - len(named)
    words = ", ".join(named) + (f" and {more} more" if more > 0 else "")
    if below:
        words += f" and {below} process{'es' if below > 1 else ''} that {'it' if len(roots) == 1 else 'they'} started"
    if not words:
        words = _unseen_words(finding)
    return words[:1].upper() + words[1:]


def _command(owner: Owner) -> str:
    return f" ({owner.facts.command})" if owner.facts.command else ""


def _unseen_words(finding: Finding) -> str:
    if not os.geteuid():
        return (
            "a process that is not seen from here (of another PID namespace, as a container's), or the kernel itself,"
        )
    users = sorted({each.user for each in finding.unseen if each.user is not None})
    if not users:
        return "a process that this user may not see"
    return f"a process of user {user_name(users[0])}, which this user may not see,"


def _where(finding: Finding) -> str:
    """The address of the culprits, and how it is in the way if it is another one."""
    place, host = finding.place, finding.culprits[0].host
    port, family = place[1][1], finding.culprits[0].family
    there = spoken((family, (host, port)))
    if there == finding.address:
        return there
    if host == "::" and place[0] == socket.AF_INET:
        return f"{there}, which takes IPv4 too (no IPV6_V6ONLY)"
    if host in WILDCARDS:
        return f"{there}, which is every interface"
    if place[1][0] in WILDCARDS:
        more = len({each.host for each in finding.culprits}) - 1
        others = f" and {more} more address{'es' if more > 1 else ''}" if more else ""
        return f"{there}{others}, which {finding.address} would cover"
    return there


def _facts(finding: Finding) -> list[str]:
    """What there is to say of the first process."""
    roots = finding.roots
    if not roots:
        group = next((group_of_id(each.group) for each in finding.unseen if each.group), Group())
        return [f"It is in {group.words}."] if group.words else []
    facts = roots[0].facts
    parts = [f"as {user_name(facts.uid)}"] if facts.uid is not None else []
    parts += [f"in {facts.group.words}"] if facts.group.words else []
    parts += [f"since {since(facts.started)}"] if facts.started is not None else []
    lines = [f"Process {facts.pid} runs {', '.join(parts)}."] if parts else []
    if facts.suspended:
        lines.append(f"Process {facts.pid} is suspended (Ctrl-Z in a shell, or SIGSTOP), and answers nobody.")
    if roots[0].role == "worker" and roots[0].left_behind:
        lines.append("That is a Pronghorn worker whose supervisor has ended; workers let go as soon as they notice.")
    elif roots[0].role:
        where = f" --socket {shlex.quote(roots[0].control)}" if roots[0].control else ""
        new_code = f"; new code goes into it without a stop: {_sudo(facts.uid)}pronghorn ctl reload{where}"
        lines.append(f"That is a Pronghorn server{new_code if where else ''}.")
    elif roots[0].left_behind:
        lines.append(
            f"The process that started process {facts.pid} has ended. A child that is left behind keeps the sockets of "
            "its parent open; a daemon looks the same."
        )
    return lines


def _what_to_do(finding: Finding) -> tuple[str, str]:
    """The advice and the command."""
    roots, port = finding.roots, finding.place[1][1] if finding.place[0] != socket.AF_UNIX else 0
    another = ANOTHER_PORT if port else "or choose another path"
    if not roots:
        return _of_unseen(finding, another)
    first = roots[0]
    if first.facts.pid == os.getpid():
        return f"This process itself has it: close that socket, {another}.", ""
    command, sudo = first.facts.command, _sudo(first.facts.uid)
    if first.facts.suspended:
        return f"Stop it, {another}:", f"{sudo}kill {first.facts.pid} && {sudo}kill -CONT {first.facts.pid}"
    if first.role in ("supervisor", "script"):
        if first.control:
            return f"Stop that server, {another}:", f"{sudo}pronghorn ctl stop --socket {shlex.quote(first.control)}"
    elif first.facts.pid == 1 or command.partition(" ")[0].endswith("/systemd"):
        if "systemd" in command or command.startswith("/sbin/init"):
            advice = f"systemd holds it for a socket unit. Find it and stop it, {another}:"
            return advice, f"systemctl list-sockets --all | grep -w {port or shlex.quote(str(finding.place[1]))}"
        return f"It is the first process of this system or container. C{another[4:]}.", ""
    elif "docker-proxy" in command and port:
        return f"It passes connections on to a container. Find and stop that one, {another}:", (
            f"docker ps --filter publish={port}"
        )
    group = first.facts.group
    if group.container and group.tool:
        return f"Stop the container, {another}:", f"{sudo}{group.tool} stop {group.container}"
    if group.unit:
        return f"Stop the unit, {another}:", f"{_systemctl(first.facts)} stop {shlex.quote(group.unit)}"
    low, high = _outgoing_ports()
    if finding.cause is Cause.CONNECTION and low <= port <= high:
        another = f"or choose a port below {low}"
    pids = " ".join(str(each.facts.pid) for each in roots)
    return f"Stop {'it' if len(roots) == 1 else 'them'}, {another}:", f"{sudo}kill {pids}"


def _systemctl(facts: ProcessFacts) -> str:
    """The command that asks the manager of a process's unit: the system's, or that of the user."""
    sudo = _sudo(facts.uid)
    if not facts.group.of_user:
        return f"{sudo}systemctl"
    if facts.uid is None or facts.uid == os.geteuid():
        return "systemctl --user"
    return f"{sudo}systemctl --user -M {shlex.quote(user_name(facts.uid))}@"


def _of_unseen(finding: Finding, another: str) -> tuple[str, str]:
    group = next((group_of_id(each.group) for each in finding.unseen if each.group), Group())
    if group.unit and not group.of_user:
        return f"Stop the unit, {another}:", f"sudo systemctl stop {shlex.quote(group.unit)}"
    if os.geteuid():
        return f"root sees which process it is, {another}:", _as_root(finding)
    return f"C{another[4:]}.", ""


def _as_root(finding: Finding) -> str:
    program = (
        sys.argv[0] if os.path.basename(sys.argv[0]) == "pronghorn" and os.path.isabs(sys.argv[0]) else "pronghorn"
    )
    return f"sudo {shlex.quote(program)} why {shlex.quote(finding.address)}"


def _sudo(uid: int | None) -> str:
    return "" if uid is None or os.geteuid() in (0, uid) else "sudo "


def _rest(sockets: Iterable[Sockets]) -> str:
    """`At that port 12 connections are in ESTABLISHED, 40 in TIME_WAIT (the last ends in 41 s).`"""
    sockets = [each for each in sockets if each.state != "LISTEN"]
    if not sockets:
        return ""
    late = sum(each.number for each in sockets if each.state == "CLOSE_WAIT")
    hint = " In CLOSE_WAIT the client has ended, and the process has not closed its end." if late else ""
    return f"At that port {_counted(sockets)}.{hint}"


def _counted(sockets: Iterable[Sockets], whose: str = "") -> str:
    counts: Counter[str] = Counter()
    sockets = list(sockets)
    for each in sockets:
        counts[each.state] += each.number
    bound = counts.pop(BOUND, 0)
    words = [f"{bound} socket{'s are' if bound > 1 else ' is'} bound and not listening"] if bound else []
    if counts:
        (state, count), *others = sorted(counts.items())
        first = f"1 connection{whose} is in {state}" if count == 1 else f"{count} connections{whose} are in {state}"
        words += [first + _ends(sockets, state)]
        words += [f"{count} in {state}{_ends(sockets, state)}" for state, count in others]
    return ", ".join(words)


def _ends(sockets: Iterable[Sockets], state: str) -> str:
    """When those in that state go by themselves, if the kernel has a timer for it."""
    timed = [each for each in sockets if each.ends_within is not None and each.state == state]
    if not timed:
        return ""
    last = math.ceil(max(each.ends_within or 0.0 for each in timed))
    return f" (ends in {last} s)" if sum(each.number for each in timed) == 1 else f" (the last ends in {last} s)"


def _outgoing_ports() -> tuple[int, int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
        return low, high
    except (OSError, ValueError):
        return 49152, 65535  # RFC 6335, 6


def _of_path(finding: Finding) -> Told:
    path = "" if isinstance(finding.place[1], bytes) else str(finding.place[1])
    if finding.cause in (Cause.LISTENER, Cause.BOUND):
        if not finding.owners and not finding.unseen:
            return Told("", [finding.note or "A process listens there, which cannot be seen from here."])
        several = len(finding.owners) + len(finding.unseen) > 1
        verb = {Cause.LISTENER: "listen", Cause.BOUND: "have bound"}[finding.cause]
        if not several:
            verb = {"listen": "listens", "have bound": "has bound"}[verb]
        tail = "there." if finding.cause is Cause.LISTENER else "it without listening."
        return Told("", [f"{_subject(finding)} {verb} {tail}", *_facts(finding)], *_what_to_do(finding))
    if finding.cause is Cause.LOCKED:
        holder = f": process {finding.owners[0].facts.pid}{_command(finding.owners[0])}" if finding.owners else ""
        why = f"A Pronghorn server has the lock of that path, {printable(path, 200, kept='')}.lock{holder}."
        return Told("", [why], "Stop that server, or choose another path.")
    if finding.cause is Cause.FILE:
        return Told("", [f"There is {finding.note} of that name, and no socket."], "Choose another path.")
    if finding.cause in (Cause.FORBIDDEN, Cause.FOLDER):
        hint = "Choose a path in a folder that exists and that this user may write to."
        return Told("", [finding.note], hint)
    return Told("", [finding.note])


def since(started: float, now: float | None = None) -> str:
    """An instant of the past, as its local date, and how long ago that was."""
    now = time.time() if now is None else now
    left = max(0, round(now - started))
    ago = f"{left} s"
    for unit, length, part, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if left >= length:
            ago = f"{left // length} {unit} {left % length // smaller} {part}"
            break
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(started))} ({ago} ago)"
