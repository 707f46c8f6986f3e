"""Trusted paths: opening files as root in folders that other users may change.

Law: root follows no name that another user may change. A path is walked folder by folder, each held open, and its end
is acted on in the folder that is held (openat(2)), so that nothing can be swapped in between. A symbolic link is
followed only where nobody but root may put one; a sticky folder (/tmp) protects what is root's own. In a folder that
others may change a file is opened only if it is a plain one with no second name, since a hard link may stand for any
file (CVE-2013-1050 and its like). A file that was not created here is never given to another owner.

A process that is not root has no rights but its user's own, and the kernel's rules are enough.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from pronghorn.system.act_as import act_as, groups_of

FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
ANYBODY = -1
"""More users than one."""
MOST_LINKS = 40  # as the kernel has it (path_resolution(7))
TRIES = 8


class Untrusted(PermissionError):
    """The path is not safe for root; user `uid` may have put there what it leads to, in a folder of group `gid`."""

    def __init__(self, said: str, uid: int, gid: int) -> None:
        super().__init__(errno.EPERM, said)
        self.uid, self.gid = uid, gid


class Place:
    """The folder that a path leads to, held open as `fd`, and the `name` in it; a context manager that closes `fd`.

    `shared` is the user who may change the folder, beside root and this process's; None if nobody, ANYBODY if several.
    `above` is the same of the first folder on the way in which the next one could be swapped, with its group. `magic`
    is a name that leads to an open file (/dev/stderr).
    """

    __slots__ = ("_strict", "above", "fd", "magic", "name", "shared")

    def __init__(self, path: str, *, follow: bool = False) -> None:
        """`follow` a symbolic link at the end as well, where it can be trusted. Raises OSError."""
        self.shared: int | None = None
        self.above: tuple[int, int] | None = None
        self.magic = False
        self._strict = os.geteuid() == 0
        if self._strict:
            self.fd = os.open("/" if path.startswith("/") else ".", FOLDER)
            try:
                self._walk([each for each in reversed(path.split("/")) if each not in ("", ".")], follow)
            except BaseException:
                os.close(self.fd)
                raise
        else:
            folder, self.name = os.path.split(path)
            self.magic = follow
            self.fd = os.open(folder or ".", FOLDER)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: Any) -> None:
        os.close(self.fd)

    def stat(self) -> os.stat_result:
        """lstat(2) of the name. Raises OSError."""
        return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)

    def unlink(self) -> None:
        os.unlink(self.name, dir_fd=self.fd)

    def open(self, flags: int, mode: int = 0o600, owner: tuple[int, int] | None = None) -> int:
        """A descriptor of the file; with O_CREAT it is made if need be, and then given to `owner`.

        Raises OSError, with the reason in words where the file cannot be trusted.
        """
        flags |= os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        if self.magic:
            return os.open(self.name, flags, mode, dir_fd=self.fd)
        flags |= os.O_NOFOLLOW
        for _ in range(TRIES):
            if flags & os.O_CREAT:
                try:
                    fd = os.open(self.name, flags | os.O_EXCL, mode, dir_fd=self.fd)
                except FileExistsError:
                    pass
                else:
                    return self._given(fd, owner)
            try:
                return self._checked(os.open(self.name, flags & ~os.O_CREAT, dir_fd=self.fd))
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EMLINK):  # the second on FreeBSD
                    raise self._refusal("is a symbolic link") from None
                raise
        raise OSError(errno.EBUSY, f"{self.name} comes and goes")

    def _given(self, fd: int, owner: tuple[int, int] | None) -> int:
        try:
            if owner is not None:
                os.fchown(fd, *owner)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _checked(self, fd: int) -> int:
        status = os.fstat(fd)
        if self._strict and self.shared is not None:
            wrong = "is no plain file" if not stat.S_ISREG(status.st_mode) else ""
            wrong = wrong or ("has a second name (a hard link)" if status.st_nlink > 1 else "")
            if wrong:
                os.close(fd)
                raise self._refusal(wrong)
        return fd

    def _walk(self, parts: list[str], follow: bool) -> None:
        links = 0
        while parts:
            name = parts.pop()
            last = not parts
            target = self._link(name) if not last or follow else ""
            here = os.fstat(self.fd)
            other = changer(here)
            safe = other is None or _guarded(here, self._status(name))
            if target and not safe:
                self.name, self.shared = name, other
                raise self._refusal("is a symbolic link")
            if target and last and here.st_dev == _proc():  # /dev/stderr leads there: a link in name only
                self.name, self.magic = name, True
                return
            if target:
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                parts += [each for each in reversed(target.split("/")) if each not in ("", ".")]
                if target.startswith("/"):
                    self._enter(os.open("/", FOLDER))
                if parts:
                    continue
            elif not last:
                if other is not None and not safe and self.above is None:
                    self.above = (other, here.st_gid)
                self._enter(os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=self.fd))
                continue
            elif name != "..":
                self.name, self.shared = name, other
                return
            break
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def _enter(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def _link(self, name: str) -> str:
        try:
            return os.readlink(name, dir_fd=self.fd)
        except OSError:
            return ""

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return None

    def _refusal(self, wrong: str) -> OSError:
        said = f"{self.name} {wrong}, and {who(self.shared)} may change its folder"
        return Untrusted(said, ANYBODY if self.shared is None else self.shared, os.fstat(self.fd).st_gid)


def changer(status: os.stat_result) -> int | None:
    """The user who may change a folder, beside root and this process's; None if nobody, ANYBODY if several may."""
    if stat.S_IMODE(status.st_mode) & 0o022:
        return ANYBODY
    return None if status.st_uid in (0, os.geteuid()) else status.st_uid


def may_write(status: os.stat_result, uid: int, groups: tuple[int, ...]) -> bool:
    """Whether a user may put files into a folder, by its mode."""
    if status.st_uid == uid:
        return bool(status.st_mode & 0o200)
    return bool(status.st_mode & (0o020 if status.st_gid in groups else 0o002))


def who(uid: int | None) -> str:
    """A user in words."""
    return "nobody" if uid is None else "others" if uid == ANYBODY else f"user {uid}"


def read(path: str, most: int = 4 * 1024 * 1024) -> bytes:
    """What a file holds, as a certificate or a key: `most` bytes. Where a link or the like is one user's to put there,
    it is read as that user, who may read only the user's own files by it. Raises OSError."""
    try:
        with Place(path, follow=True) as place:
            fd = place.open(os.O_RDONLY)
    except Untrusted as error:
        if error.uid == ANYBODY:
            raise
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = act_as(error.uid, *groups_of(error.uid, error.gid), lambda: os.open(path, flags))
    with open(fd, "rb") as file:  # it does not block: a pipe without a writer is empty
        return file.read(most) or b""


def refuse_shared(path: str, groups: tuple[int, ...] = ()) -> None:
    """For files that root opens by name, again and again: raises PermissionError if another user, or a member of one of
    the `groups`, may change what the path leads to. In a sticky folder (/tmp) the file is made if need be, so that no
    other user replaces it. A process that is not root is refused nothing. Raises OSError."""
    if os.geteuid() != 0:
        return
    with Place(path, follow=True) as place:  # no link on the way, but root's
        if place.magic:
            return
        if os.fstat(place.fd).st_mode & stat.S_ISVTX:
            os.close(place.open(os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
    real = os.path.realpath(path)
    while (folder := os.path.dirname(real)) != real:
        status = os.stat(folder)
        entry = os.lstat(real) if os.path.lexists(real) else None
        other = _swaps(status, groups)
        if other is not None and not _guarded(status, entry):
            raise PermissionError(errno.EPERM, f"{who(other)} may change the folder {folder}")
        real = folder


def _swaps(folder: os.stat_result, groups: tuple[int, ...]) -> int | None:
    """As `changer`, but a group counts only if it is one of `groups`."""
    if folder.st_uid not in (0, os.geteuid()):
        return folder.st_uid
    mode = stat.S_IMODE(folder.st_mode)
    return ANYBODY if mode & 0o002 or (mode & 0o020 and folder.st_gid in groups) else None


def may_change(path: str, uid: int, groups: tuple[int, ...]) -> bool:
    """Whether a user may change a file, or put another one in its place; False where that cannot be told."""
    try:
        with Place(path, follow=True) as place:
            folder, entry = os.fstat(place.fd), place.stat()
            swaps = may_write(folder, uid, groups) and (entry.st_uid == uid or not _guarded(folder, entry))
            return swaps or may_write(entry, uid, groups) or (place.above is not None and place.above[0] == uid)
    except Untrusted as error:
        return error.uid in (uid, ANYBODY)
    except OSError:
        return False


def _guarded(folder: os.stat_result, entry: os.stat_result | None) -> bool:
    """Whether the sticky bit keeps others from replacing an entry (or there is none yet to replace)."""
    ours = (0, os.geteuid())
    if not folder.st_mode & stat.S_ISVTX or folder.st_uid not in ours:
        return False
    return entry is not None and entry.st_uid in ours


def _proc() -> int:
    try:
        return os.stat("/proc/self/fd").st_dev
    except OSError:
        return -1
