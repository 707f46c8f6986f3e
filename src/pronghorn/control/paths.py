"""The folders of control sockets, where a server makes one by its name and `pronghorn ctl` looks for it.

Law: nothing is trusted that another user could have put there. A folder is made with mode 0700 (0755 for
--control-group) and used only if it is a folder indeed (no symbolic link), ours, and no other user can write into it or
replace it. The server takes the first that it can have, ctl looks into all: a service and a login shell rarely agree on
their environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib

from pronghorn.errors import CannotBind
from pronghorn.system.trusted_paths import Place, who

RUN = "/run/pronghorn"  # only root can have made it, or systemd (RuntimeDirectory=pronghorn), for one user
SUFFIX = ".sock"
LONGEST_NAME = 48
UNSAFE = re.compile(r"[^\w.:@%+=,\[\]-]")


def file_name(name: str) -> str:
    """A server's name as a file's: without slashes, blanks and control characters, and of bounded length; different
    long names stay different."""
    safe = UNSAFE.sub("-", name.replace("unix:/", "unix:")).lstrip(".") or "-"
    if len(os.fsencode(safe)) <= LONGEST_NAME and safe.isascii():
        return safe
    mark = f"{zlib.crc32(os.fsencode(name)):08x}"
    return f"{safe.encode('ascii', 'replace').decode().replace('?', '-')[: LONGEST_NAME - 9]}-{mark}"


def folders() -> list[str]:
    """Where sockets may be, the best place first; none of them need exist.

    `$XDG_RUNTIME_DIR` counts only if it is ours, as its specification wants: `su` and `sudo` may leave another's.
    """
    uid = os.geteuid()
    temporary = f"{os.environ.get('TMPDIR') or '/tmp'}/pronghorn-{uid}"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _owner(runtime) == uid:
        return [f"{runtime}/pronghorn", RUN, temporary]
    return [RUN, temporary]


def server_folder(*, shared: bool = False) -> str:
    """The folder for a new server's socket, made if need be; one that is `shared` with other users is where they look
    for it, and open to them. Raises CannotBind with what is wrong with each."""
    wrong: list[str] = []
    for folder in [RUN] if shared else folders():
        try:
            with contextlib.suppress(FileExistsError), Place(folder) as place:
                os.mkdir(place.name, 0o700, dir_fd=place.fd)
            why = _untrusted(folder, (os.geteuid(),))
        except OSError as error:
            wrong.append(f"{folder}: {error.strerror}.")
            continue
        if not why:
            if shared:
                os.chmod(folder, 0o755)  # ours, and nobody else replaces it; the sockets in it have modes of their own
            return folder
        wrong.append(f"{folder} {why}.")
    raise CannotBind(
        "There is no folder for the control socket.",
        " ".join(wrong),
        "Name a path with --control-socket PATH, or do without one: --control-socket off.",
    )


def sockets() -> tuple[list[str], list[str]]:
    """The sockets of servers, live or dead, in the folders that can be trusted; and what was wrong with the others."""
    found: list[str] = []
    wrong: list[str] = []
    for folder in folders():
        try:
            owners = (os.geteuid(), 0) if folder != RUN or os.geteuid() else (_owner(folder),)
            why = _untrusted(folder, owners)
            if why:
                wrong.append(f"{folder} {why}.")
            else:
                found += [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.endswith(SUFFIX)]
        except FileNotFoundError:
            pass
        except OSError as error:
            wrong.append(f"{folder}: {error.strerror}.")
    return found, wrong


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1


def _untrusted(folder: str, owners: tuple[int, ...]) -> str:
    """What is wrong with a folder, or nothing. Raises OSError if it is not there."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
    if status.st_uid not in owners:
        return f"belongs to user {status.st_uid}"
    if status.st_mode & 0o022:
        return "can be written to by others"
    with Place(os.path.join(folder, "any")) as place:
        return f"can be replaced by {who(place.above[0])}" if place.above is not None else ""
