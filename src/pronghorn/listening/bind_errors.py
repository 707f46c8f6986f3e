"""Messages for the errors of bind(2) and listen(2): what each means, and what to do next.

Law: sentences only. Why an address is in use is a guess here, from the errno and the settings; conflicts.py asks the
kernel which process holds it.
"""

from __future__ import annotations

import errno
import os
import socket

from pronghorn.errors import AddressInUse, CannotBind
from pronghorn.listening.addresses import Place, spoken
from pronghorn.settings import Settings

FREE_CHOICE = "Stop what holds it, or choose another port with --bind; port 0 takes a free one."
PLAIN = {
    errno.EADDRNOTAVAIL: (
        "This host has no such address.",
        "Bind an address of this host, 127.0.0.1 for itself alone, or :PORT for every interface.",
    ),
    errno.EAFNOSUPPORT: ("This host has no IPv6.", "Bind an IPv4 address."),
    errno.EINVAL: (
        "The system refuses such an address.",
        "A link-local address needs its interface, as in [fe80::1%eth0]:8000.",
    ),
    errno.ENODEV: ("There is no such interface.", "Check the name behind the % sign."),
}


def kernel_number(name: str, default: int) -> int:
    """One number of /proc/sys/net, or `default` where there is none."""
    try:
        with open(f"/proc/sys/net/{name}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return default


def lacks_address(error: OSError) -> bool:
    """Whether the error says that this host lacks the address, or its whole family."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind_error(error: OSError, place: Place, settings: Settings) -> CannotBind:
    """The error to raise when `place` could not be opened: AddressInUse if it is busy."""
    address = spoken(place)
    what = f"Cannot listen on {address}."
    if error.errno == errno.EADDRINUSE:
        busy = AddressInUse(what, *_busy(place, settings), address)
        busy.reuse_address, busy.reuse_port = settings.reuse_address, settings.reuse_port
        return busy
    why, hint = PLAIN.get(error.errno or 0, (f"{error.strerror or error}.", ""))
    if error.errno == errno.EACCES and place[0] != socket.AF_UNIX:
        why, hint = _forbidden(place[1][1])
    elif place[0] == socket.AF_UNIX:
        hint = "Choose a path in a folder that exists and that this user may write to."
    return CannotBind(what, why, hint, address)


def _busy(place: Place, settings: Settings) -> tuple[str, str]:
    if place[0] == socket.AF_UNIX:
        if isinstance(place[1], bytes):
            return "A process listens at that abstract name.", "Stop what holds it, or choose another name with --bind."
        return "There is a file of that name now.", "Start again, or choose another path with --bind."
    if not settings.reuse_address:
        why = "A process listens there, or connections of an earlier server are still in FIN_WAIT2 or TIME_WAIT."
        return why, f"Leave out --no-reuse-address, or wait a minute for TIME_WAIT to end. {FREE_CHOICE}"
    why = (
        "A process listens there, or connections of an earlier server, which ran without SO_REUSEADDR, are still in "
        "FIN_WAIT2 or TIME_WAIT."
    )
    if settings.reuse_port:
        why = "A process listens there without SO_REUSEPORT, or as another user."
    return why, f"{FREE_CHOICE} TIME_WAIT ends by itself after a minute."


def _forbidden(port: int) -> tuple[str, str]:
    lowest = kernel_number("ipv4/ip_unprivileged_port_start", 1024)
    if port >= lowest:
        return "The system forbids it.", "Check the security policy of this system (SELinux, AppArmor, a container's)."
    why = f"A port below {lowest} takes a privilege that user {os.geteuid()} does not have here."
    return why, f"Choose a port from {lowest} up, or grant CAP_NET_BIND_SERVICE."
