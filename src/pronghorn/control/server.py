"""The control socket: a listener, its lock, and who is admitted.

Law: it lives in the supervisor's thread and never waits: threads and fork(2) do not go together. A caller that is slow,
silent, dead or loud loses its connection and holds up no other: the size of a request, the number of connections and
the time for both lines are bounded, and only our own user, root, and members of `--control-group` are admitted.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import time
from collections.abc import Sequence
from typing import cast

from pronghorn import events
from pronghorn.control import paths
from pronghorn.control.callers import GroupCommands, peer_groups
from pronghorn.control.protocol import Call, CommandSet
from pronghorn.errors import AddressInUse, AlreadyRunning, BadRequest, BadSetting, CannotBind, PronghornError
from pronghorn.events import Observer
from pronghorn.listening.addresses import LONGEST_PATH
from pronghorn.listening.unix_path import Claim, owner_of
from pronghorn.settings import Settings
from pronghorn.supervisor.poller import Poller
from pronghorn.system.peer_credentials import peer_uid
from pronghorn.system.processes import lives
from pronghorn.system.trusted_paths import Place

AUTO, OFF = "auto", "off"
MOST_CALLS = 16
REST = 1.0  # seconds without accept(2) after it failed
QUEUE = 64
MODE, GROUP_MODE = "600", "660"
AFTERLIFE = 2.0  # seconds that the lock of a dead process is waited for
GONE = PronghornError("The server has ended before it could answer.")
BUSY = PronghornError(f"There are {MOST_CALLS} control connections already.", hint="Try again in a moment.")


def open_control(
    settings: Settings, address: str, observe: Observer, handed: Sequence[int] = ()
) -> ControlServer | None:
    """The control socket that the settings ask for, for a server whose first address is `address`; or the one that the
    program before an upgrade has `handed` over as its descriptors.

    None if it is off, or if there is no place that it could have by itself: an event says so, and the server can do
    without. Servers that share the address on purpose, and have no name of their own, are told apart by their process.
    Raises AlreadyRunning, and CannotBind if a path that was asked for cannot be had.
    """
    if handed:
        listener, lock = handed
        control = ControlServer.adopt(listener, lock)
        control.admit_group(settings.control_group, observe)
        return control
    if settings.control_socket == OFF:
        return None
    name, group = settings.name or address, settings.control_group
    if settings.control_socket != AUTO:
        return ControlServer.open(name, settings.control_socket, group, observe)
    try:
        return ControlServer.open(name, "", group, observe)
    except AlreadyRunning:
        if settings.reuse_port and not settings.name:
            return ControlServer.open(f"{address}@{os.getpid()}", "", group, observe)
        raise
    except CannotBind as error:
        if group:
            raise
        observe(events.ControlMissing(error.what, error.why))
        return None


def group_number(group: str) -> int:
    """The number of `--control-group`, -1 without one. Raises BadSetting."""
    try:
        return owner_of(f":{group}")[1]
    except BadSetting as error:
        raise BadSetting(f"--control-group is {group!r}.", error.why, "Check the name, or give a number.") from None


class ControlServer:
    """The control socket of one server, at `path`; its lock beside it keeps a second copy of the server out."""

    def __init__(self, listener: socket.socket, claim: Claim, path: str) -> None:
        self.path = path
        self._listener = listener
        self._listener.setblocking(False)
        self._claim = claim
        self._calls: set[Call] = set()
        self._refused: set[Call] = set()  # they have their answer, and may still be sending
        self._resting = math.inf  # until when (monotonic) nothing is accepted
        self._group, self._gid, self._adopted = "", -1, False
        self._observe: Observer = lambda event: None

    @classmethod
    def open(cls, name: str, path: str = "", group: str = "", observe: Observer = lambda event: None) -> ControlServer:
        """Locks and binds `path`, or the place that a server of that name has in the folder of control sockets. Members
        of `group` may connect too.

        Raises AlreadyRunning if a server has it, CannotBind if it cannot be had for another reason.
        """
        group_number(group)
        asked = path
        path = (
            os.path.abspath(path)
            if path
            else f"{paths.server_folder(shared=bool(group))}/{paths.file_name(name)}{paths.SUFFIX}"
        )
        _check(path)
        claim = _claimed(name, path, bool(asked))
        if not asked:
            _sweep(os.path.dirname(path), path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(listener, path, GROUP_MODE if group else MODE, f":{group}" if group else "")
            _note_process(claim)
            listener.listen(QUEUE)
        except (OSError, CannotBind) as error:
            listener.close()
            claim.release()
            why = error.why if isinstance(error, CannotBind) else f"{error.strerror}."
            raise _refused(path, why) from None
        control = cls(listener, claim, path)
        control._admit(group, observe)
        return control

    @classmethod
    def adopt(cls, fd: int, lock_fd: int, path: str = "") -> ControlServer:
        """The control socket of the program that started this one, from its two `descriptors`. Until `serve` nothing
        changes hands: `close` only closes."""
        listener = socket.socket(fileno=fd)
        listener.set_inheritable(False)
        path = path or str(listener.getsockname())
        status = os.lstat(path)
        identity = (status.st_dev, status.st_ino)
        control = cls(listener, Claim.adopt({"lock": lock_fd, "path": path, "identity": identity}), path)
        control._adopted = True
        return control

    def admit_group(self, group: str, observe: Observer) -> None:
        """From `serve` on the members of `group` may connect to a socket that was adopted, and those of no other."""
        self._admit(group, observe)

    def _admit(self, group: str, observe: Observer) -> None:
        self._group, self._observe = group, observe
        self._gid = group_number(group)

    def descriptors(self) -> list[int]:
        """The listener's and the lock's: what an upgrade hands on, and no worker keeps. None when handed over."""
        return [self._listener.fileno(), *self._claim.descriptors()] if self._listener.fileno() >= 0 else []

    def serve(self, poller: Poller, commands: CommandSet) -> None:
        """From now on `commands` are asked, and the path and its lock are this process's."""
        self._poller, self._commands = poller, commands
        self._claim.take_over()
        if self._adopted:
            self._claim.give(GROUP_MODE if self._group else MODE, self._gid)
        with contextlib.suppress(OSError):  # a full disk: the number is only told to whoever starts a second copy
            _note_process(self._claim)
        poller.add(self._listener, self._accept)

    def tick(self, now: float) -> None:
        """Ends what has taken too long; to be called about once a second, with the monotonic clock."""
        for call in [*self._calls, *self._refused]:
            if now >= call.deadline:
                call.late()
        if now >= self._resting:
            self._resting = math.inf
            if self._listener.fileno() >= 0:
                self._poller.add(self._listener, self._accept)

    def hand_over(self) -> None:
        """Another process has adopted the socket: closes it here and removes nothing. Who waits for an answer still
        gets it."""
        self._claim.hand_over()
        self._let_go()

    def close(self) -> None:
        """Ends it: who still waits is told so, and the path is removed if it is ours."""
        try:
            for call in [*self._calls, *self._refused]:
                call.answer(GONE)
                call.close()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._listener.fileno() >= 0:
            if hasattr(self, "_poller"):
                self._poller.remove(self._listener)
            self._claim.release()
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(MOST_CALLS):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ECONNABORTED:
                    continue
                # Out of descriptors: the caller waits in the queue, and poll(2) would tell of it without end.
                self._poller.remove(self._listener)
                self._resting = time.monotonic() + REST
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if len(self._calls) >= MOST_CALLS:
            self.tick(time.monotonic())
        uid, commands = peer_uid(sock), self._commands
        if member := uid not in (0, os.geteuid()) and self._gid >= 0 and self._gid in peer_groups(sock):
            commands = cast(CommandSet, GroupCommands(commands, uid, self._group, self._observe))
        if not member and uid not in (0, os.geteuid()):
            owner = f"It belongs to user {os.geteuid()}"
            owner += f", and is open to group {self._group}." if self._group else "."
            self._refuse(sock, BadRequest(f"User {uid} may not control this server.", owner))
        elif len(self._calls) >= MOST_CALLS:
            self._refuse(sock, BUSY)
        else:
            Call(sock, self._poller, commands, self._calls).begin()

    def _refuse(self, sock: socket.socket, error: PronghornError) -> None:
        if len(self._refused) >= MOST_CALLS:
            min(self._refused, key=lambda call: call.deadline).close()
        Call(sock, self._poller, self._commands, self._refused).refuse(error)


def _claimed(name: str, path: str, asked: bool) -> Claim:
    """The lock, as soon as a process that is dead already has let go of it: a worker that was just forked may hold it
    for a moment longer, or somebody who sweeps."""
    deadline = time.monotonic() + AFTERLIFE
    while True:
        try:
            return Claim(path)
        except AddressInUse as error:
            pid = _noted_process(path)
            if not pid or lives(pid) or time.monotonic() >= deadline:  # without a number it is taken to live
                raise _running(name, path, asked, error.why) from None
            time.sleep(0.01)
        except CannotBind as error:
            raise _refused(path, error.why) from None


def _sweep(folder: str, path: str) -> None:
    """Removes what dead servers have left beside `path`."""
    for name in os.listdir(folder):
        other = f"{folder}/{name}"
        if name.endswith(paths.SUFFIX) and other != path:
            try:
                Claim(other).release()
            except CannotBind:
                pass  # it lives, or is nothing of ours


def _check(path: str) -> None:
    length = len(os.fsencode(path))
    if length > LONGEST_PATH or "\0" in path:
        why = f"The path has {length} bytes, and the system takes {LONGEST_PATH} at most."
        raise _refused(path, why if length > LONGEST_PATH else "A path holds no NUL.")


def _refused(path: str, why: str) -> CannotBind:
    hint = "Name another path with --control-socket PATH, or do without one: --control-socket off."
    return CannotBind(f"Cannot open the control socket {path}.", why, hint, f"unix:{path}")


def _running(name: str, path: str, asked: bool, why: str) -> AlreadyRunning:
    """The refusal of a second copy, with the process that the first one is."""
    pid = _noted_process(path)
    if pid:
        why = f"It is process {pid}, and has the control socket {path}."
    place, other = (f"--socket {path}", "--control-socket") if asked else (f"--name {name}", "--name")
    hint = f"See it with: pronghorn ctl status {place}. To run another beside it, give that one a {other} of its own."
    return AlreadyRunning(f"A server named {name} is running already.", why, hint, f"unix:{path}")


def _note_process(claim: Claim) -> None:
    for lock in claim.descriptors():
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)


def _noted_process(path: str) -> int:
    try:
        with Place(f"{path}.lock") as place, open(place.open(os.O_RDONLY), "rb") as file:
            return int(file.read(20))
    except (OSError, ValueError, TypeError):  # the last for a pipe that is empty
        return 0
