"""The claim to the path of a unix socket: its lock, its owner and permissions, and its end.

Law: a path where a process listens is never taken, one that a dead server left is replaced, and at the end the path is
removed only by the process that claimed it. bind(2) refuses any path that exists and tells none of this apart, so: a
lock file beside the path keeps other Pronghorn servers out (`PATH.lock`, flock(2), which the kernel frees when the last
process that holds it dies), a connect(2) finds out whether a process listens, and device and inode say whether the path
is still this server's. Binding beside the path and renaming was dropped: the peer then sees the wrong name.

Another user may be at work in the same folder. What is done to a name is done in the folder that is held open
(system/trusted_paths.py). A lock is a plain file with no second name. A socket has its permissions from its first
moment, and it is the socket itself that gets its owner, by a descriptor (O_PATH): never what has taken its name.
bind(2) alone takes a whole path: where a user may swap a folder on it, it is done as that user, in another process
(system/act_as.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable
from typing import Any

from pronghorn.errors import AddressInUse, BadSetting, CannotBind
from pronghorn.system.act_as import act_as, groups_of
from pronghorn.system.trusted_paths import ANYBODY, Place, who

NOBODY = 0  # a process id that is no process's

Identity = tuple[int, int]


def identity(status: os.stat_result) -> Identity:
    """What makes a file this very file: device and inode."""
    return status.st_dev, status.st_ino


class Claim:
    """The right to bind a unix path.

    Once made, the path is free to be bound. Raises AddressInUse if another server has it, CannotBind if it cannot be
    had for another reason; nothing is locked then.
    """

    __slots__ = ("_lock", "_lock_path", "_owner", "_path", "_socket", "_text")

    def __init__(self, path: str) -> None:
        self._text = f"unix:{path}"
        self._path = os.path.abspath(path)  # the working folder may change before the end
        self._lock_path = self._path + ".lock"
        self._owner = os.getpid()
        self._socket: Identity | None = None
        self._lock = self._locked()
        try:
            self._clear(path)
        except BaseException:
            self.release()
            raise

    def bind(self, listening: socket.socket, path: str, mode: str = "", owner: str = "") -> None:
        """Bind a socket to the claimed path, as `path` spells it: with its permissions (`660`) from the first moment,
        and its owner (`USER`, `USER:GROUP`, `:GROUP`, by name or by number); empty ones are as the system has them.

        Raises OSError if it cannot be bound, BadSetting if there is no such user or group, CannotBind if the system
        refuses to give it, or if something else has taken its place; it is the caller's to close the socket.
        """
        uid, gid = owner_of(owner)
        with Place(self._path) as place:
            self._bind(listening, path, place, mode)
            try:
                self._give(place, uid, gid)
            except OSError as error:
                why = f"It cannot be given to {owner}: {error.strerror}." if owner else f"{error.strerror}."
                hint = "Only root gives files away; a user may choose among the groups that it is in."
                raise self._refusal(why, hint) from None

    def _bind(self, listening: socket.socket, path: str, place: Place, mode: str) -> None:
        umask = os.umask(0o777 & ~int(mode, 8)) if mode else None
        try:
            if mode and hasattr(os, "O_PATH"):  # Linux hands it on to the path; another thread may set the umask
                os.fchmod(listening.fileno(), int(mode, 8))
            if place.above is None:
                listening.bind(path)
                return
            uid, gid = place.above
            if uid == ANYBODY:
                why = f"{who(ANYBODY).capitalize()} may put another folder in the place of one on the way."
                raise self._refusal(why, "Choose a path all of whose folders are root's or the server's user's.")
            act_as(uid, *groups_of(uid, gid), lambda: _bind(listening, path))
        finally:
            if umask is not None:
                os.umask(umask)

    def _give(self, place: Place, uid: int, gid: int) -> None:
        """Know the socket that was bound, and give it to its owner. Raises OSError, and gives nothing else away."""
        if not hasattr(os, "O_PATH"):
            self._socket = _socket(place.stat())
            if (uid, gid) != (-1, -1):
                os.chown(place.name, uid, gid, dir_fd=place.fd, follow_symlinks=False)
            return
        fd = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
        try:
            self._socket = _socket(os.fstat(fd))
            if (uid, gid) != (-1, -1):
                os.chown(f"/proc/self/fd/{fd}", uid, gid)
        finally:
            os.close(fd)

    def give(self, mode: str, gid: int) -> None:
        """Give the socket that is at the path, if it is still ours, to a group, with other permissions; -1 leaves its
        group. Nothing happens where that is not allowed."""
        with contextlib.suppress(OSError), Place(self._path) as place:
            if identity(place.stat()) == self._socket and place.above is None:
                os.chown(place.name, -1, gid, dir_fd=place.fd, follow_symlinks=False)
                os.chmod(place.name, int(mode, 8), dir_fd=place.fd)

    def release(self) -> None:
        """Remove what is ours and let go of the lock; in a forked process, only close its copy of the lock."""
        if self._lock < 0:
            return
        if os.getpid() == self._owner:
            with contextlib.suppress(OSError), Place(self._path) as place:
                if self._socket is not None and identity(place.stat()) == self._socket:
                    place.unlink()
            with contextlib.suppress(OSError), Place(self._lock_path) as place:
                if identity(place.stat()) == identity(os.fstat(self._lock)):
                    place.unlink()
        os.close(self._lock)
        self._lock = -1

    @property
    def lost(self) -> bool:
        """What this process bound is not at the path any more: it was removed, or something else took its place."""
        if os.getpid() != self._owner:
            return False
        try:
            return identity(os.lstat(self._path)) != self._socket
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def renew(self) -> None:
        """After it was lost: the path is free to be bound again. Raises as at first; then it is not bound."""
        self._socket = None
        try:
            held = identity(os.lstat(self._lock_path)) == identity(os.fstat(self._lock))
        except OSError:
            held = False
        if not held:
            lock = self._locked()
            os.close(self._lock)
            self._lock = lock
        self._clear(self._path)

    # An upgrade: both programs hold one lock, since flock(2) belongs to what both descriptors stand for.

    def record(self) -> dict[str, Any]:
        """What `adopt` needs, as plain values; the lock's descriptor has to be handed on with it."""
        return {"lock": self._lock, "path": self._path, "identity": self._socket}

    @classmethod
    def adopt(cls, record: dict[str, Any]) -> Claim:
        """The claim of the program that started this one; it removes nothing before `take_over`."""
        claim = cls.__new__(cls)
        claim._path = record["path"]
        claim._text = f"unix:{claim._path}"
        claim._lock_path = claim._path + ".lock"
        claim._lock = record["lock"]
        claim._owner = NOBODY
        claim._socket = tuple(record["identity"]) if record["identity"] else None
        os.set_inheritable(claim._lock, False)
        return claim

    def take_over(self) -> None:
        """From now on it is this process that removes the path."""
        self._owner = os.getpid()

    def hand_over(self) -> None:
        """From now on another process removes the path: here `release` only closes."""
        self._owner = NOBODY

    def descriptors(self) -> list[int]:
        return [self._lock] if self._lock >= 0 else []

    def _locked(self) -> int:
        try:
            with Place(self._lock_path) as place:
                while True:
                    lock = place.open(os.O_RDWR | os.O_CREAT)
                    try:
                        if self._holds(lock, place):
                            return lock
                    except BaseException:
                        os.close(lock)
                        raise
                    os.close(lock)
        except OSError as error:
            raise self._refusal(f"{self._lock_path} cannot be opened: {error.strerror}.") from None

    def _holds(self, lock: int, place: Place) -> bool:
        """Locks it. Who had the lock before may have removed the file after we opened it: then it guards nothing."""
        status = os.fstat(lock)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise self._refusal(f"{self._lock_path} is no plain file, or has a second name.", "Remove it.")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return identity(status) == identity(place.stat())
        except BlockingIOError:
            raise self._taken("Another Pronghorn server holds the path and its lock.") from None
        except FileNotFoundError:
            return False

    def _clear(self, path: str) -> None:
        """Remove what a dead server left."""
        try:
            with Place(self._path) as place:
                self._clear_at(place, path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refusal(f"{error.strerror}.") from None

    def _clear_at(self, place: Place, path: str) -> None:
        before = place.stat()
        if not stat.S_ISSOCK(before.st_mode):
            raise self._refusal("A file of that name is there, and no socket.", "Choose another path with --bind.")
        answer = _probe(path)
        if answer == errno.ENOENT:
            return
        if answer != errno.ECONNREFUSED:
            known = {0: "Another server listens there.", errno.EAGAIN: "Another server listens there, and is busy."}
            raise self._taken(known.get(answer, f"There is a socket that may be in use: {os.strerror(answer)}."))
        try:
            if identity(place.stat()) == identity(before):
                place.unlink()
        except OSError as error:
            raise self._refusal(f"An earlier server's socket cannot be removed: {error.strerror}.") from None

    def _taken(self, why: str) -> AddressInUse:
        hint = "Stop the other server, or choose another path with --bind."
        return AddressInUse(f"Cannot listen on {self._text}.", why, hint, self._text)

    def _refusal(self, why: str, hint: str = "") -> CannotBind:
        hint = hint or "Choose a path in a folder that exists and that this user may write to."
        return CannotBind(f"Cannot listen on {self._text}.", why, hint, self._text)


def _probe(path: str) -> int:
    """connect(2)'s errno: 0 if a process listens, ECONNREFUSED if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path)


def owner_of(owner: str) -> tuple[int, int]:
    """The numbers of `USER`, `USER:GROUP` or `:GROUP`; -1 is no change. Raises BadSetting if there is none."""
    user, _, group = owner.partition(":")
    uid = _number(user, "user", lambda name: pwd.getpwnam(name).pw_uid)
    return uid, _number(group, "group", lambda name: grp.getgrnam(name).gr_gid)


def _bind(listening: socket.socket, path: str) -> int:
    listening.bind(path)
    return -1


def _socket(status: os.stat_result) -> Identity:
    if not stat.S_ISSOCK(status.st_mode) or status.st_nlink != 1:
        raise OSError(errno.EBUSY, "Something else has taken its place")
    return identity(status)


def _number(name: str, what: str, find: Callable[[str], int]) -> int:
    if not name or (name.isascii() and name.isdigit()):
        return int(name or -1)
    try:
        return find(name)
    except KeyError:
        raise BadSetting(f"--unix-owner names {name!r}.", f"There is no such {what}.") from None
