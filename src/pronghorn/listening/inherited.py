"""Listening sockets that another program has opened: systemd, the server before an upgrade, or a parent process.

Law: each descriptor is checked. It is a listening stream socket of a family that is served, or it is refused with the
reason. The other program may go on with it: it is never shut down, and no path of it is removed. From here on it
crosses no exec and never blocks, and the variables that named it are gone, so that a handler's program does not take
them for its own.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping

from pronghorn.errors import BadSetting, CannotBind

FIRST = 3  # SD_LISTEN_FDS_START
FAMILIES = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def activated(environment: MutableMapping[str, str]) -> list[tuple[int, str]]:
    """The descriptors that systemd hands to this very process, and their names (sd_listen_fds(3)).

    The variables are taken out of `environment`, whomever they are meant for, and the descriptors cross no exec any
    more. Raises BadSetting when the variables make no sense.
    """
    pid, count, names, _ = (environment.pop(name, "") for name in VARIABLES)
    if not count or pid != str(os.getpid()):
        return []
    if not (count.isascii() and count.isdigit() and int(count) < 2**20):
        raise BadSetting(f"LISTEN_FDS is {count!r}.", "It is a number of descriptors.")
    descriptors = range(FIRST, FIRST + int(count))
    given = names.split(":") if names else []
    for fd in descriptors:
        try:
            os.set_inheritable(fd, False)
        except OSError:
            raise BadSetting(f"LISTEN_FDS is {count}.", f"Descriptor {fd} is not open.") from None
    return [(fd, given[place] if place < len(given) else "") for place, fd in enumerate(descriptors)]


def inherited_socket(fd: int, bind: str, backlog: int) -> socket.socket:
    """Descriptor `fd` as a listening socket that never blocks and crosses no exec; one that is only bound listens now.

    Raises CannotBind with what is wrong about it; the descriptor is left as it is then. `bind` names it in messages.
    """
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        hint = "Hand it down to the server, and see that it is not closed on exec."
        raise _refusal(bind, f"Descriptor {fd} is not open.", hint) from None
    if not is_socket:
        raise _refusal(bind, f"Descriptor {fd} is no socket.")
    taken = socket.socket(fileno=fd)
    try:
        _check(taken, bind, fd)
        if not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            taken.listen(backlog)
    except OSError as error:
        taken.detach()
        raise _refusal(bind, f"Descriptor {fd}: {error.strerror}.") from None
    except BaseException:
        taken.detach()
        raise
    taken.set_inheritable(False)
    taken.setblocking(False)
    return taken


def _check(taken: socket.socket, bind: str, fd: int) -> None:
    if taken.family not in FAMILIES:
        raise _refusal(bind, f"Descriptor {fd} is a socket of another family than IPv4, IPv6 and unix.")
    if taken.type != socket.SOCK_STREAM:
        raise _refusal(bind, f"Descriptor {fd} is no stream socket.", "In a systemd socket unit, use ListenStream=.")
    if _is_connected(taken):
        why = f"Descriptor {fd} is one client's connection, and no listening socket."
        raise _refusal(bind, why, "In a systemd socket unit, leave Accept= at no.")
    address = taken.getsockname()
    if not (address[1] if isinstance(address, tuple) else address):
        raise _refusal(bind, f"The socket of descriptor {fd} has no address.", "Bind it before it is handed down.")


def _is_connected(taken: socket.socket) -> bool:
    try:
        taken.getpeername()
    except OSError:
        return False
    return True


def _refusal(bind: str, why: str, hint: str = "") -> CannotBind:
    return CannotBind(f"Cannot listen on {bind}.", why, hint, bind)
