"""The supervisor's side of the bus: the door to its hub, and the hub's process once somebody has come to the door.

Law: while nobody uses the bus, and no broker is set, there are two descriptors, and no more. The door outlives each
hub: what comes to it while there is none waits for the next. The hub is started again when it dies, and after an
upgrade by the new program, to which the door and the bus socket are handed on. The broker's password is in nothing but
the hub's settings, which are in no command line.
"""

from __future__ import annotations

import os
import socket

from pronghorn import events
from pronghorn.errors import AddressInUse, BadSetting, CannotBind, MissingExtra
from pronghorn.events import Observer
from pronghorn.listening.addresses import LONGEST_PATH
from pronghorn.listening.unix_path import Claim
from pronghorn.settings import Settings, broker_url
from pronghorn.settings.broker_url import EXTRAS
from pronghorn.settings.bus import AUTO, OFF, broker_of
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.side_process import SideProcess, SideProcesses
from pronghorn.system import privileges, trusted_paths
from pronghorn.system.descriptor_queue import DescriptorQueue

QUEUE = 128
SILENCE = 5.0  # seconds without a sign of life, after which a hub hangs and is replaced
SUFFIX = ".bus"
LONGEST_PASSWORD = 1024  # bytes


def carrier_of(settings: Settings) -> str:
    """The URL of the broker, with its password; empty for a bus of this server alone. Raises BadSetting, in which no
    password is, and MissingExtra for a package that is not installed: nothing of it is imported here."""
    from importlib.util import find_spec

    url, path = broker_of(settings.bus), settings.bus_password_file
    if not url:
        if path:
            raise BadSetting(
                "--bus-password-file needs --bus.", "There is no broker.", "For example: --bus redis://HOST"
            )
        return ""
    carrier = broker_url.parse(url).carrier
    if find_spec(EXTRAS[carrier]) is None:
        what, extra = f"--bus {url.partition(':')[0]}:// needs the package {EXTRAS[carrier]}.", EXTRAS[carrier]
        raise MissingExtra(what, "It is not installed.", f"Install it: pip install 'pronghorn[{extra}]'")
    if not path:
        return url
    what = f"--bus-password-file is {path!r}."
    try:
        raw = trusted_paths.read(path, LONGEST_PASSWORD + 2)
        password = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise BadSetting(what, f"{error.strerror}.", "Name a file that the server may read.") from None
    except UnicodeDecodeError:
        password = ""
    if not 0 < len(password) <= LONGEST_PASSWORD or not password.isprintable():
        why = f"It does not hold one line of 1 to {LONGEST_PASSWORD:,} printable characters."
        raise BadSetting(what, why, "Write the password into it, and nothing else.")
    try:
        return broker_url.with_password(url, password)
    except ValueError:
        raise BadSetting(what, "The URL of --bus has a password too.", "Leave one of them out.") from None


class BusSide:
    """The hub's process, as soon as it is wanted. `control` is the path of the control socket, beside which the bus
    socket is; empty where there is none."""

    def __init__(self, door: DescriptorQueue, settings: Settings, control: str, observe: Observer) -> None:
        self._door, self._settings, self._observe = door, settings, observe
        self.carrier = carrier_of(settings)
        path = settings.bus_socket
        if path == AUTO:
            path = control.removesuffix(".sock") + SUFFIX if control else OFF
        self.path = "" if path == OFF else os.path.abspath(path)
        self._listener: socket.socket | None = None
        self._claim: Claim | None = None
        self._watching: Poller | None = None

    def watch(self, sides: SideProcesses, poller: Poller) -> None:
        """From now on the hub is started when somebody comes to the door; at once where there is a broker, since
        readiness knows by it whether that is there."""
        self._sides = sides
        if self.carrier:
            return self._wanted()
        self._watching = poller
        poller.add(self._door, self._wanted)

    def _wanted(self) -> None:
        self._stop_watching()
        descriptors = {"door": self._door.fileno()}
        if self.path and self._open():
            assert self._listener is not None
            descriptors["socket"] = self._listener.fileno()
        person = privileges.person
        admitted = [os.geteuid(), *([person.uid] if person is not None else [])]
        longest = self._settings.bus_max_message
        settings = {"longest": longest, "admitted": admitted, "carrier": self.carrier}
        shown = {"socket": self.path if "socket" in descriptors else ""}
        module = "pronghorn.bus.hub_process"
        side = SideProcess("bus", module, settings=settings, descriptors=descriptors, shown=shown, silence=SILENCE)
        self._sides.add(side)

    def _open(self) -> bool:
        """Open the bus socket, which is the workers' user's; without it only the server's processes have a bus."""
        if self._listener is not None:
            return True
        claim, listener = None, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if len(os.fsencode(self.path)) > LONGEST_PATH:
                raise CannotBind(self.path, "The path is too long.")
            claim = Claim(self.path)
            claim.bind(listener, self.path, "600", str(privileges.person.uid) if privileges.person is not None else "")
            listener.listen(QUEUE)
        except (OSError, AddressInUse, CannotBind) as error:
            listener.close()
            if claim is not None:
                claim.release()
            why = error.why if isinstance(error, CannotBind) else error.strerror or str(error)
            self._observe(events.BusSocketMissing(self.path, why))
            return False
        self._listener, self._claim = listener, claim
        return True

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.remove(self._door)
            self._watching = None

    # An upgrade, and the end

    def descriptors(self) -> list[int]:
        """What no worker and no helper keeps."""
        found = [self._listener.fileno()] if self._listener is not None else []
        return [*found, *(self._claim.descriptors() if self._claim is not None else ()), *self._door.descriptors()]

    def handed(self) -> list[int]:
        """The door, then the bus socket and its lock, if there is one, for the new program of an upgrade."""
        if self._listener is None or self._claim is None:
            return self._door.descriptors()
        return [*self._door.descriptors(), self._listener.fileno(), *self._claim.descriptors()]

    def adopt(self, descriptors: list[int]) -> None:
        """What the program before has `handed` on."""
        listener, lock = descriptors
        self._listener = socket.socket(fileno=listener)
        self._listener.set_inheritable(False)
        path = self.path = str(self._listener.getsockname())
        status = os.lstat(path)
        self._claim = Claim.adopt({"lock": lock, "path": path, "identity": (status.st_dev, status.st_ino)})

    def take_over(self) -> None:
        """This program serves: the path is its own."""
        if self._claim is not None:
            self._claim.take_over()

    def hand_over(self) -> None:
        """The new program of an upgrade serves."""
        self._stop_watching()
        if self._claim is not None:
            self._claim.hand_over()

    def close(self) -> None:
        self._stop_watching()
        if self._claim is not None:
            self._claim.release()
        if self._listener is not None:
            self._listener.close()
