"""Dropping privileges: the user and group that workers become, `--user` and `--group`.

Law: names are looked up once, before anything is bound; every worker, and the probe, drops privileges before the user's
code is imported. Supplementary groups go first, since a process that is no longer root may not change them, then the
group, then the user (setuid(2), and OpenSSH's permanently_set_uid); afterwards every way back is tried, and one that is
open ends the process. The supervisor keeps its user: a reload may have to bind a low port, and to open the log file.

No program that a worker starts gains privileges by its file (no_new_privs), unless a setting allows it, or the program
that is served has a setuid bit.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable

import msgspec

from pronghorn.errors import BadSetting, WorkerFailedToStart
from pronghorn.settings import Settings
from pronghorn.settings.source import Source
from pronghorn.system.processes import forgo_privileges, program_path


class Person(msgspec.Struct, frozen=True):
    """A user as the kernel knows it; `groups` are the supplementary ones, with `gid` among them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str


person: Person | None = None
"""The user that this server's workers become; None: they stay as they are. Set by the server, inherited by fork(2)."""


def resolve(user: str, group: str) -> Person | None:
    """The user that workers shall become; None if they are that already, or if both names are empty.

    Both are names or numbers; without `group` it is the user's own. Raises BadSetting if there is no such user or
    group, or if this process may not change its user.
    """
    if not user and not group:
        return None
    uid, gid, name, home = _user(user)
    if group:
        gid = _group(group)
    if os.geteuid() != 0:
        if (uid, gid) == (os.geteuid(), os.getegid()):
            return None
        what = f"--user is {user!r}." if user else f"--group is {group!r}."
        why = f"Only root can become somebody else, and this is user {os.geteuid()}."
        raise BadSetting(what, why, "Start the server as root, or leave it out.")
    groups = os.getgrouplist(name, gid) if name else [gid]
    return Person(uid, gid, tuple(sorted(set(groups))), name, home)


def _user(user: str) -> tuple[int, int, str, str]:
    """Number, group, name and home; a number needs no entry in the table of users, but a group then."""
    try:
        if not user:
            entry = pwd.getpwuid(os.geteuid())
        else:
            entry = pwd.getpwuid(int(user)) if _is_number(user) else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        if _is_number(user) and int(user) < 2**32 - 1:
            return int(user), int(user), "", "/"
        raise BadSetting(
            f"--user is {user!r}.", "There is no such user.", "Check the name, or give a number."
        ) from None
    return entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir


def _group(group: str) -> int:
    if _is_number(group) and int(group) < 2**32 - 1:
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise BadSetting(
            f"--group is {group!r}.", "There is no such group.", "Check the name, or give a number."
        ) from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def drop() -> None:
    """Become `person`, for good; nothing if there is none. HOME, USER and LOGNAME follow.

    A change of credentials clears the death signal of prctl(2), which has to be set afterwards, and makes /proc/self
    root's, which has to be written to before. Raises WorkerFailedToStart if it cannot be done, or could be undone.
    """
    if person is None:
        return
    try:
        os.setgroups(person.groups)
        os.setgid(person.gid)
        os.setuid(person.uid)
    except OSError as error:
        raise _failure(person, f"{error.strerror}.") from None
    back = _way_back(person)
    if back:
        raise _failure(person, f"Afterwards there was a way back: {back}.")
    os.environ.update(HOME=person.home)
    if person.name:
        os.environ.update(USER=person.name, LOGNAME=person.name)


def forgo(settings: Settings, sources: Iterable[object]) -> None:
    """No program that is started from here on gains privileges by its file, unless `settings` want it, or one of the
    programs that are served."""
    if settings.new_privileges:
        return
    for source in sources:
        if isinstance(source, Source) and source.command and _gains(program_path(source.command)):
            return
    forgo_privileges()


def _gains(path: str) -> bool:
    """Whether a program gains privileges by its file: by its mode (execve(2)) or its capabilities."""
    try:
        if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
            return True
        return hasattr(os, "getxattr") and bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _way_back(person: Person) -> str:
    """The privileges that are left, or can be had again; empty if none."""
    if hasattr(os, "getresuid") and (set(os.getresuid()), set(os.getresgid())) != ({person.uid}, {person.gid}):
        return f"user {os.getresuid()}, group {os.getresgid()}"
    if set(os.getgroups()) - {person.gid} != set(person.groups) - {person.gid}:
        return f"groups {os.getgroups()}"
    if person.uid == 0:
        return ""
    for name, call, number in (("setuid", os.setuid, 0), ("seteuid", os.seteuid, 0), ("setgid", os.setgid, 0)):
        if name == "setgid" and person.gid == 0:
            continue
        try:
            call(number)
        except PermissionError:
            continue
        return f"{name}({number})"
    return ""


def _failure(person: Person, why: str) -> WorkerFailedToStart:
    return WorkerFailedToStart(f"A worker cannot become user {person.name or person.uid}.", why)
