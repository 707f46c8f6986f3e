"""The supervisor's side of the bus: the door to its hub, and the hub's process once somebody has come to the door.

Law: while nobody uses the bus, and no broker is set, there are two descriptors, and no more. The door outlives each
hub: what comes to it while there is none waits for the next. The hub is started again when it dies, and after an
upgrade by the new program, to which the door and the bus socket are handed on. The broker's password is in nothing but
the hub's settings, which are in no command line.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn import events
from pronghorn.errors import AddressInUse, BadSetting, CannotBind, MissingExtra, PronghornError, printable
from pronghorn.events import Observer
from pronghorn.listening.addresses import LONGEST_PATH
from pronghorn.listening.unix_path import Claim
from pronghorn.settings import Settings, broker_url, unreadable
from pronghorn.settings.broker_url import EXTRAS
from pronghorn.settings.bus import AUTO, LOCAL, OFF, broker_of
from pronghorn.supervisor.poller import Poller
from pronghorn.supervisor.side_process import SideProcess, SideProcesses
from pronghorn.system import privileges, trusted_paths
from pronghorn.system.descriptor_queue import DescriptorQueue

if TYPE_CHECKING:
    from pronghorn.bus.figures import Broker, Counts

QUEUE = 128
SILENCE = 5.0  # seconds without a sign of life, after which a hub hangs and is replaced
SUFFIX = ".bus"
BUS = "bus"
CARRIER = "carrier"  # in the settings of a side process, and on its line: the URL
SHOWN = "carrier socket broker counts links names members".split()
LONGEST_WHY = 500  # characters
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
        hint = "Name a file that the server may read."
        raise BadSetting(what, unreadable.why(path, error), hint) from None
    except UnicodeDecodeError:
        password = ""
    if not 0 < len(password) <= LONGEST_PASSWORD or not password.isprintable():
        why = f"It does not hold one line of 1 to {LONGEST_PASSWORD:,} printable characters."
        raise BadSetting(what, why, "Write the password into it, and nothing else.")
    try:
        return broker_url.with_password(url, password)
    except ValueError:
        raise BadSetting(what, "The URL of --bus has a password too.", "Leave one of them out.") from None


def bus_state(sides: SideProcesses, settings: Settings) -> dict[str, Any]:
    """What carries the bus (`carrier`: off, local, or a URL without secrets), and once there is a hub what that has
    told (bus/figures.py)."""
    for side in sides:
        if side.name == BUS:
            state = side.state()
            if (broker := state.get("broker")) is not None and not side.ready:
                state["broker"] = {**broker, "up": False, "why": "The hub of the bus is being started again."}
            return {name: state[name] for name in SHOWN if name in state}
    return {"carrier": broker_url.hidden(settings.bus)}


def broker_check(sides: SideProcesses, settings: Settings) -> tuple[bool, str] | None:
    """Whether the broker is there, and words about that; None where none is set."""
    state = bus_state(sides, settings)
    if state["carrier"] in (LOCAL, OFF):
        return None
    broker = state.get("broker")
    if broker is None:
        return False, "the broker is not reached yet"
    if broker["up"]:
        return True, "ok"
    why = broker["why"] or "not reached yet"
    return False, f"the broker is away, other hosts are not reached: {why}"


class BusSide:
    """The hub's process, as soon as it is wanted. `control` is the path of the control socket, beside which the bus
    socket is; empty where there is none."""

    def __init__(self, door: DescriptorQueue, settings: Settings, control: str, observe: Observer) -> None:
        self._door, self._settings, self._observe = door, settings, observe
        self.carrier = carrier_of(settings)
        self._shown = broker_url.hidden(self.carrier or settings.bus)
        self._up, self._away = False, 0.0  # the broker; since when it is away, once that was told
        self._hub = 0  # which one has counted `_counts`, on top of those before it
        self._before: Counts | None = None
        self._counts: Counts | None = None
        self._side: SideProcess
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

    def reloaded(self) -> None:
        """Read the file of the password again. What runs goes on as it is, and takes the new one when it connects."""
        if not (self.carrier and self._settings.bus_password_file):
            return
        path = self._settings.bus_password_file
        try:
            carrier = carrier_of(self._settings)
        except PronghornError as error:
            self._observe(events.BrokerPasswordRead(path, " ".join(str(error).split())))
            return
        if carrier != self.carrier:
            self.carrier = carrier
            self._side.set(CARRIER, carrier)
            self._side.send({CARRIER: carrier})
            self._observe(events.BrokerPasswordRead(path))

    def _wanted(self) -> None:
        self._stop_watching()
        descriptors = {"door": self._door.fileno()}
        if self.path and self._open():
            assert self._listener is not None
            descriptors["socket"] = self._listener.fileno()
        person = privileges.person
        admitted = [os.geteuid(), *([person.uid] if person is not None else [])]
        longest = self._settings.bus_max_message
        settings = {"longest": longest, "admitted": admitted, CARRIER: self.carrier}
        shown = {"socket": self.path if "socket" in descriptors else "", "carrier": self._shown}
        module, hear = "pronghorn.bus.hub_process", self._heard
        self._side = SideProcess(
            BUS,
            module,
            settings=settings,
            descriptors=descriptors,
            shown=shown,
            silence=SILENCE,
            hear=hear,
            leaves=bool(self.carrier),
        )
        self._sides.add(self._side)

    # What the hub tells

    def _heard(self, message: dict[str, Any]) -> None:
        from pronghorn.bus import figures  # here: workers are forks of this process, and most use no bus

        told = figures.told(message.get(figures.TOLD))
        if told is None:
            return
        if self._side.restarts != self._hub and self._counts is not None:  # another one, which counts from 0 on
            self._before = self._counts.plus(self._before or figures.Counts())
        self._hub, self._counts = self._side.restarts, told.counts
        counts = told.counts.plus(self._before or figures.Counts())
        shown = msgspec.structs.asdict(told) | {"counts": msgspec.structs.asdict(counts)}
        if told.broker is not None and self.carrier:
            shown["broker"] = self._broker_is(told.broker)
        self._side.show(**shown)

    def _broker_is(self, broker: Broker) -> dict[str, Any]:
        """How it stands with the broker, for `ctl status`; what has changed is told."""
        broker.why = printable(broker.why.replace(self.carrier, self._shown), LONGEST_WHY)
        if broker.up and not self._up:
            self._observe(events.BrokerFound(self._shown, max(0.0, time.time() - self._away) if self._away else 0.0))
            self._away = 0.0
        elif not broker.up and broker.why and not self._away:
            self._away = broker.since
            self._observe(events.BrokerLost(self._shown, broker.why))
        self._up = broker.up
        return msgspec.structs.asdict(broker)

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
