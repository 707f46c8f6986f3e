"""One act as another user, in a process of its own: to open a file, or to bind a path, where that user may change it.

Law: the process that asks never changes its user, not even for a moment: a helper becomes that user for good (setuid(2)
of root leaves no way back), acts, and sends the descriptor back. So the kernel itself refuses what the user may not do,
whatever the user makes of the path meanwhile. It takes a few seconds at most: a file system that hangs holds up the
helper, which is killed.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable

import msgspec

from pronghorn.system.helper import Answer, Helper, Reaper

PATIENCE = 5.0  # seconds that an act may take


def act_as(uid: int, gid: int, groups: tuple[int, ...], act: Callable[[], int]) -> int:
    """What `act` returns when that user does it: a descriptor, which is this process's own now, or -1.

    Only for root. Raises the OSError that `act` raised, and TimeoutError when it took too long.
    """
    reaper = Reaper()
    helper = Helper(lambda: _act(uid, gid, groups, act), PATIENCE, reaper)
    try:
        helper.wait()
        if not helper.ended:
            raise TimeoutError(errno.ETIMEDOUT, f"It took longer than {PATIENCE:g} s")
        answer = helper.answer()
    finally:
        helper.close()
        reaper.finish()
    if answer is None:
        raise OSError(errno.EIO, "The process that should do it was killed")
    said, descriptors = answer
    if failure := said.strip():
        raise OSError(*msgspec.json.decode(failure))
    return descriptors[0] if descriptors else -1


def groups_of(uid: int, gid: int) -> tuple[int, tuple[int, ...]]:
    """The group of a user and all of them, by the system's tables; `gid` alone for a user who stands in none."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return gid, (gid,)
    return entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))


def _act(uid: int, gid: int, groups: tuple[int, ...], act: Callable[[], int]) -> Answer:
    try:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        fd = act()
    except OSError as error:
        return msgspec.json.encode((error.errno or errno.EIO, error.strerror or str(error))), []
    return b"", [fd] if fd >= 0 else []
