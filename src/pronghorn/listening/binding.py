"""Opening of listeners from settings: all or none, and kept when they are open already.

Law: a listener is opened once, by one process. An IPv6 one takes IPv6 only, always (RFC 3493, 5.3): whether `[::]` may
be bound beside `0.0.0.0` would otherwise be the system's choice. What was open before is never closed here.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import NamedTuple

from pronghorn.errors import AddressInUse, BadSetting, CannotBind
from pronghorn.events import Event, ListenerOpened, ListenerSkipped, Observer
from pronghorn.listening.addresses import Bind, Place, parse_bind, places, refuse_overlaps, spoken
from pronghorn.listening.bind_errors import bind_error, kernel_number, lacks_address
from pronghorn.listening.inherited import activated, inherited_socket
from pronghorn.listening.listener import Listener
from pronghorn.listening.socket_options import options
from pronghorn.listening.unix_path import Claim
from pronghorn.settings import Settings
from pronghorn.settings.services import Service, services
from pronghorn.settings.sockets import UNASKED

TRIES_FOR_ONE_PORT = 20


def activated_listeners(environment: MutableMapping[str, str]) -> list[Listener]:
    """The sockets that systemd hands to this process, as listeners of `fd://N`; their variables are gone afterwards.

    Raises BadSetting and CannotBind if they are not what a server can listen on.
    """
    return [_open_descriptor(fd, f"fd://{fd}", 0, name) for fd, name in activated(environment)]


class Opened(NamedTuple):
    """An open listener, the place of its service among all, and the listener's name."""

    listener: Listener
    service: int
    name: str


class _Wanted(NamedTuple):
    """One address that is asked for, and the service there."""

    bind: Bind
    service: int
    name: str
    settings: Settings
    """Of the service."""


class _Opening:
    """One call of open_served: the open listeners that no `--bind` has taken yet, and the new ones."""

    __slots__ = ("fresh", "skipped", "spare")

    def __init__(self, spare: list[Listener]) -> None:
        self.spare = spare
        self.fresh: list[Listener] = []
        self.skipped: list[ListenerSkipped] = []

    def kept(self, bind: Bind, title: str) -> list[Listener]:
        """What one `--bind` has open already; given twice, port 0 is two ports, and each is taken once: by the listener
        of the same `title`, if there is one."""
        mine = [each for each in self.spare if each.bind == bind.text or (bind.fd and bind.fd == each.name)]
        mine = [each for each in mine if each.title == title] or [each for each in mine if not each.title]
        if bind.host or bind.port or not bind.fd:
            mine = [each for each in mine if _port(each) == _port(mine[0])]
        self.spare = [each for each in self.spare if each not in mine]
        return mine

    def same(self, place: Place) -> Listener | None:
        """What is open at this very address for a `--bind` that is written differently."""
        found = next((each for each in self.spare if each.address == spoken(place)), None)
        if found is not None:
            self.spare.remove(found)
        return found

    def close(self, listeners: list[Listener]) -> None:
        """Close those that are new."""
        for each in listeners:
            if each in self.fresh:
                self.fresh.remove(each)
                each.close()


def open_listeners(
    settings: Settings, observe: Observer, *, keep: Iterable[Listener] = (), inherited: Iterable[Listener] = ()
) -> list[Listener]:
    """The listeners of `open_served`."""
    return [each.listener for each in open_served(services(settings), observe, keep=keep, inherited=inherited)]


def open_served(
    served: Sequence[Service],
    observe: Observer,
    *,
    keep: Iterable[Listener] = (),
    inherited: Iterable[Listener] = (),
) -> list[Opened]:
    """Open every address of every service, all or none, in their order; a ListenerOpened for each new one tells the
    observer.

    A name is bound at all its addresses; an IPv6 one that this host lacks is skipped (ListenerSkipped) if another one
    binds. Port 0 becomes one free port, the same on all addresses of a name.

    What is open already stays as it is: `keep`, of an earlier generation, and `inherited`, of an older program or of
    systemd; `renew` gives it backlog and options once it is sure that the settings will serve. Nothing of these is ever
    closed here; what is not in the result is no longer wanted, and the caller's to close. Only one that listens no more
    is opened anew, where it was. Without any `--bind`, what systemd handed down is served.

    Raises BadSetting for an address that cannot be read or is given twice, AddressInUse if another socket holds one,
    CannotBind if it fails otherwise; nothing new is open then, and nothing has changed.
    """
    keep, inherited = list(keep), list(inherited)
    opening = _Opening([*keep, *inherited])
    groups = [(wanted, opening.kept(wanted.bind, wanted.name)) for wanted in _wanted(served, opening.spare)]
    places_of = [(each.bind, places(each.bind) if not kept else [one.place for one in kept]) for each, kept in groups]
    titles = [served[each.service].title for each, _ in groups]
    claims = zip(titles, places_of, strict=True)
    refuse_overlaps([(title, bind, group) for title, (bind, group) in claims if not bind.fd])
    found: list[Opened] = []
    try:
        for (wanted, kept), (_, group) in zip(groups, places_of, strict=True):
            others = [*keep, *inherited, *(each.listener for each in found)]
            here = kept or _open_group(wanted, group, opening, others)
            found += [Opened(each, wanted.service, wanted.name or each.name or each.address) for each in here]
        for one in filter(lambda one: one.listener.dead, found):
            _revive(one.listener, served[one.service].settings)
            observe(_opened_event(one, served))
    except BaseException:
        opening.close(list(opening.fresh))
        raise
    for one in found:
        if one.listener in opening.fresh:
            one.listener.prepare(options(served[one.service].settings))
    for event in [*opening.skipped, *_told(found, served, opening, inherited)]:
        observe(event)
    return found


def renew(listeners: Iterable[Listener], settings: Settings) -> None:
    """Give listeners the backlog and the options of settings that serve from now on."""
    for each in listeners:
        try:
            if settings.backlog or not each.foreign:
                each.listen(effective_backlog(settings.backlog))
            each.prepare(options(settings))
        except OSError:
            pass  # dead; it will be opened anew


def check_binds(settings: Settings) -> None:
    """Reads every `--bind` as `open_listeners` does, and resolves names, but opens nothing: raises BadSetting and
    CannotBind for what could never be bound: for a unix path whose folder is not there, too, and for a descriptor that
    is not open. Whether an address is free it cannot say."""
    served = services(settings)
    groups = [(served[each.service].title, each.bind, places(each.bind)) for each in _wanted(served, [])]
    refuse_overlaps([each for each in groups if not each[1].fd])
    for _, bind, group in groups:
        _refuse_what_is_not_there(bind, group)


def _refuse_what_is_not_there(bind: Bind, group: list[Place]) -> None:
    try:
        if bind.fd.isdigit():
            os.fstat(int(bind.fd))
    except OSError:
        hint = "Whatever starts the server hands it down; start this check in the same way."
        raise CannotBind(
            f"Cannot listen on {bind.text}.", f"Descriptor {bind.fd} is not open.", hint, bind.text
        ) from None
    for family, path in group:
        if family == socket.AF_UNIX and isinstance(path, str) and not os.path.isdir(os.path.dirname(path) or "."):
            raise bind_error(OSError(errno.ENOENT, os.strerror(errno.ENOENT)), (family, path), Settings())


def _wanted(served: Sequence[Service], there: list[Listener]) -> list[_Wanted]:
    """Every address in the order of its place; when nobody has given one, what systemd handed down, or else the
    default."""
    found: list[tuple[int, _Wanted]] = []
    handed = [each.bind for each in there if each.bind.startswith("fd:")]
    for number, service in enumerate(served):
        settings, unasked = service.settings, not service.own and service.settings.bind is UNASKED
        for place, text in enumerate(handed) if handed and unasked else service.bind:
            bind = parse_bind(text)
            _refuse(bind, settings)
            found.append((place, _Wanted(bind, number, service.name, settings)))
    if not found:
        raise BadSetting("--bind is empty.", "A server needs an address.", "Write --bind 127.0.0.1:8000.")
    return [each for _, each in sorted(found, key=lambda each: each[0])]


def _refuse(bind: Bind, settings: Settings) -> None:
    _refuse_other_scheme(bind, settings)
    if bind.path.startswith("@") and (settings.unix_mode or settings.unix_owner):
        why = "An abstract name has neither an owner nor permissions: whoever shares the network namespace connects."
        raise BadSetting(f"--bind gives {bind.text}.", why, "Leave --unix-mode and --unix-owner out, or bind a path.")


def _refuse_other_scheme(bind: Bind, settings: Settings) -> None:
    if bind.tls is None or bind.tls is settings.tls_at_once:
        return
    if bind.tls and settings.tls_cert:
        why = f"With --tls {settings.tls} no address speaks TLS from the first byte."
        raise BadSetting(f"--bind gives tls://{bind.text}.", why, f"Write {bind.text}, or leave --tls out.")
    if bind.tls:
        raise BadSetting(
            f"--bind gives tls://{bind.text}.", "There is no certificate.", "Add --tls-cert and --tls-key."
        )
    why = "The listener speaks TLS."
    raise BadSetting(f"--bind gives tcp://{bind.text}.", why, f"Write {bind.text}, or tls=off behind it.")


def _told(
    found: list[Opened], served: Sequence[Service], opening: _Opening, inherited: list[Listener]
) -> Iterator[Event]:
    for each in found:
        if each.listener in opening.fresh or each.listener in inherited:
            yield _opened_event(each, served)
    listeners = [each.listener for each in found]
    for one in inherited:
        if one not in listeners and one.bind.startswith("fd:"):
            yield ListenerSkipped(one.address, f"It was handed down as {one.bind}, and no --bind names it.")


def _opened_event(opened: Opened, served: Sequence[Service]) -> ListenerOpened:
    address = opened.listener.address
    name = opened.name if opened.name != address else ""
    return ListenerOpened(address, served[opened.service].settings.tls_at_once, name)


def _open_group(wanted: _Wanted, group: list[Place], opening: _Opening, others: list[Listener]) -> list[Listener]:
    """Open the addresses of one `--bind`; a free port that is not free on all of them is given back."""
    bind, settings = wanted.bind, wanted.settings
    if bind.fd:
        return [_open_named(bind, settings, opening, others)]
    for left in reversed(range(TRIES_FOR_ONE_PORT)):
        here: list[Listener] = []
        lacking: list[CannotBind] = []
        try:
            for place in group:
                port = bind.port or (_port(here[0]) if here else 0)
                _open_or_skip(_with_port(place, port), settings, opening, here, lacking)
            if not here:
                raise lacking[0]
        except AddressInUse:
            opening.close(here)
            if bind.port or not here or not left:
                raise
        else:
            break
    for each in here:
        each.bind = bind.text
    opening.skipped += [ListenerSkipped(error.address, error.why) for error in lacking]
    return here


def _open_named(bind: Bind, settings: Settings, opening: _Opening, others: list[Listener]) -> Listener:
    """A descriptor that systemd did not announce, but that is there."""
    if any(bind.fd in (each.name, str(each.fileno())) for each in others):
        raise BadSetting(f"--bind gives {bind.text}.", "Another --bind has that descriptor.", "Leave one of them out.")
    if not bind.fd.isdigit():
        names = ", ".join(sorted({each.name for each in others if each.name})) or "none"
        why = f"No socket of that name was handed down; there are: {names}."
        raise CannotBind(
            f"Cannot listen on {bind.text}.", why, "Check FileDescriptorName= of the socket unit.", bind.text
        )
    opened = _open_descriptor(int(bind.fd), bind.text, settings.backlog)
    opening.fresh.append(opened)
    return opened


def _open_descriptor(fd: int, bind: str, backlog: int, name: str = "") -> Listener:
    taken = inherited_socket(fd, bind, effective_backlog(backlog))
    return Listener(taken, spoken((taken.family, taken.getsockname())), None, bind, name)


def _port(listener: Listener) -> int:
    return 0 if listener.family == socket.AF_UNIX else int(listener.address.rpartition(":")[2])


def _with_port(place: Place, port: int) -> Place:
    family, address = place
    return place if family == socket.AF_UNIX else (family, (address[0], port, *address[2:]))


def _open_or_skip(
    place: Place, settings: Settings, opening: _Opening, here: list[Listener], lacking: list[CannotBind]
) -> None:
    family, address = place
    same = opening.same(place)
    if same is not None:
        return here.append(same)
    try:
        opened = _open_unix(address, settings) if family == socket.AF_UNIX else _open_tcp(place, settings)
        opening.fresh.append(opened)
        here.append(opened)
    except OSError as error:
        refusal = bind_error(error, place, settings)
        if family != socket.AF_INET6 or not lacks_address(error):
            raise refusal from None
        lacking.append(refusal)


def _open_unix(path: str | bytes, settings: Settings) -> Listener:
    if isinstance(path, bytes):  # an abstract name: no file, which nobody can claim, and the kernel takes it back
        place = (socket.AF_UNIX, path)
        return Listener(_bound(place, settings), spoken(place))
    claim = Claim(path)
    try:
        return Listener(_bound_unix(path, settings, claim), f"unix:{path}", claim)
    except BaseException:
        claim.release()
        raise


def _bound_unix(path: str, settings: Settings, claim: Claim) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(listening, path, settings.unix_mode, settings.unix_owner)  # nobody can connect before it listens
        return _listening(listening, settings)
    except BaseException:
        listening.close()
        raise


def _open_tcp(place: Place, settings: Settings) -> Listener:
    listening = _bound(place, settings)
    return Listener(listening, spoken((place[0], listening.getsockname())))


def _bound(place: Place, settings: Settings) -> socket.socket:
    family, address = place
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if settings.reuse_address and family != socket.AF_UNIX:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port and family != socket.AF_UNIX:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        return _listening(listening, settings)
    except BaseException:
        listening.close()
        raise


def _revive(dead: Listener, settings: Settings) -> None:
    (place,) = places(parse_bind(dead.address))  # what its own socket says may be gone
    try:
        dead.revive(lambda claim: _bound_unix(place[1], settings, claim) if claim else _bound(place, settings))
    except OSError as error:
        raise bind_error(error, place, settings) from None


def _listening(bound: socket.socket, settings: Settings) -> socket.socket:
    """With SO_REUSEADDR two sockets may bind one address: the second fails here, with EADDRINUSE."""
    bound.listen(effective_backlog(settings.backlog))
    bound.setblocking(False)
    return bound


def effective_backlog(asked: int) -> int:
    """The accept queue's real length for the setting: the system cuts it at somaxconn (listen(2)); 0 asks for that."""
    most = kernel_number("core/somaxconn", socket.SOMAXCONN)
    return min(asked or most, most)
