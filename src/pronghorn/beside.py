"""What a server has beside its supervisor: observers, and the processes of the log, the admin port, and of files.

Law: only this room puts observers together, and only it knows which processes beside the supervisor there are. Each is
made where its setting asks for it, and imported there: what the supervisor has imported, every fork copies. The room is
told what happens to the server, and tells each of them; nothing here waits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pronghorn.boot import Handed
from pronghorn.listening.conflicts import explained, held_by_orphans, once_free
from pronghorn.listening.listener import Listener
from pronghorn.observers import Observers
from pronghorn.observers.access_log import AccessLog
from pronghorn.observers.log import LogObserver
from pronghorn.settings import Settings
from pronghorn.settings.admission import OFF
from pronghorn.supervisor.access_writer import AccessWriter
from pronghorn.supervisor.bus_side import BusSide, carrier_of
from pronghorn.supervisor.event_counts import EventCounts
from pronghorn.supervisor.exception_guard import Guard
from pronghorn.supervisor.log_process import LogProcess
from pronghorn.supervisor.supervisor import Supervisor
from pronghorn.system.descriptor_queue import DescriptorQueue

if TYPE_CHECKING:
    from pronghorn.control.admin_process import AdminProcess
    from pronghorn.control.protocol import CommandSet
    from pronghorn.events import Observer
    from pronghorn.scoreboard.board import Scoreboard
    from pronghorn.supervisor.autoreload import Autoreload
    from pronghorn.supervisor.limits_side import LimitsSide
    from pronghorn.supervisor.observer_side import ObserverSide


class Beside:
    """The observers, from the start on; the processes, as soon as each is wanted. `others` are observers beside those
    of the log; `undo` closes what is opened here."""

    def __init__(
        self, settings: Settings, board: Scoreboard, others: Sequence[Observer], handed: Handed | None, undo: ExitStack
    ) -> None:
        self._settings, self._handed = settings, handed
        level, form, config = settings.log_level, settings.log_format, bool(settings.log_config)
        self._log = log = LogObserver(level, form=form, configured=config)
        self._access_writer = AccessWriter()
        self._access_log = AccessLog(log, self._access_writer.follow)
        for each in (log, self._access_log, self._access_writer):
            undo.callback(each.close)
        self.observe = Observers(log, EventCounts(board), *others, self._access_log)
        self._log_process: LogProcess | None = None
        self._autoreload: Autoreload | None = None
        self._admin: AdminProcess | None = None
        self._observer_side: ObserverSide | None = None
        self._bus: BusSide | None = None
        self._limits: LimitsSide | None = None
        self._unwanted: list[Listener] = []  # admin listeners of the program before an upgrade
        self._supervisor: Supervisor

    def check(self) -> None:
        """Raises MissingExtra, BadSetting and CannotBind for an admin process that cannot be, or a bus."""
        carrier_of(self._settings)
        if self._settings.shared_limits != OFF:
            from pronghorn.supervisor import limits_side

            limits_side.check(self._settings)
        if self._has_admin or self._settings.admin_write:
            from pronghorn.control.admin_process import check

            check(self._settings)

    @property
    def _has_admin(self) -> bool:
        return bool(self._settings.wants_metrics or self._settings.agent_check)

    def open_access_log(self, path: str) -> None:
        """Raises BadSetting if it cannot be opened."""
        self._access_writer.open(path)

    def open_admin(self, supervisor: Supervisor, commands: CommandSet) -> None:
        """The addresses of the admin process, if it has any, and the process as a part of the supervisor. Raises as
        AdminProcess does."""
        if not self._has_admin:
            return self._take_unwanted()
        from pronghorn.control.admin_process import AdminProcess

        handed = (self._handed.admin, self._handed.statsd) if self._handed else ()
        self._admin = once_free(lambda: AdminProcess(self._settings, self.observe, *handed), held_by_orphans, explained)
        if self._admin.copies is not None:
            self._log.copy_to(self._admin.copies.send)
        self._admin.start(supervisor, commands)

    def _take_unwanted(self) -> None:
        """The program before an upgrade had an admin process, and this one has none."""
        if self._handed is not None:
            self._unwanted = [Listener.adopt(each) for each in self._handed.admin]
            if self._handed.statsd >= 0:
                os.close(self._handed.statsd)

    def open_bus(self, door: DescriptorQueue, control: str) -> None:
        """The hub of the bus, as soon as it is wanted; `control` is the path of the control socket."""
        self._bus = BusSide(door, self._settings, control, self.observe)
        if self._handed is not None and self._handed.bus[2:]:
            self._bus.adopt(self._handed.bus[2:])

    def attach(self, supervisor: Supervisor) -> None:
        """Belongs to a supervisor that is about to run."""
        fleet, self._supervisor = supervisor.fleet, supervisor
        if self._settings.log_config:
            self._log_process = LogProcess(
                self._log.hear, fleet.workers.helpers, lambda: [*fleet.poller.descriptors(), *fleet.kept()]
            )
            self._log.have_told_by(self._log_process.tell)
        self._follow_observers()
        self._share_limits()
        self._access_writer.attach(fleet, supervisor.sides, lambda: self._access_log.lines)
        if self._bus is not None and self._handed is None:  # at once, since a lifespan may publish
            self._bus.watch(supervisor.sides, fleet.poller)

    def _share_limits(self) -> None:
        if self._settings.shared_limits != OFF and self._bus is not None:
            from pronghorn.supervisor.limits_side import LimitsSide

            board = self._supervisor.fleet.serving.plan.board.fileno()
            self._limits = LimitsSide(self._settings, self._bus.carrier, board, self._supervisor.sides)

    def watch_files(self, file: str, since: int) -> None:
        """With `--reload`, from now on: handlers, and files of settings, `file` among them."""
        if self._settings.reload:
            from pronghorn.supervisor.autoreload import Autoreload

            supervisor = self._supervisor
            sources = [each.source for each in supervisor.fleet.serving.plan.services]
            files = [file, *self._settings.env_file]
            self._autoreload = Autoreload(sources, files, since, supervisor.fleet, supervisor.changes)

    def _follow_observers(self) -> None:
        plan, sides = self._supervisor.fleet.serving.plan, self._supervisor.sides
        if plan.settings.observer or self._observer_side is not None:
            from pronghorn.supervisor.observer_side import follow

            self._observer_side = follow(self._observer_side, plan, sides, self.observe.add)

    # What happens to the server: see supervisor/callbacks.py.

    def take_over(self) -> None:
        """This program serves."""
        if self._admin is not None:
            self._admin.take_over()
        if self._bus is not None:
            self._bus.take_over()
            if self._handed is not None:
                self._bus.watch(self._supervisor.sides, self._supervisor.poller)
        for each in self._unwanted:
            each.take_over()
            each.close()
        self._unwanted = []

    def turn(self, now: float) -> None:
        self._access_writer.turn(now)

    def reopen(self) -> None:
        self._access_writer.reopen()

    def reloaded(self, sources: Sequence[Any], files: Sequence[str], since: int) -> None:
        self._follow_observers()
        if self._admin is not None:
            self._admin.reloaded(self._supervisor.fleet.serving.plan.settings)
        if self._bus is not None:
            self._bus.reloaded()
            if self._limits is not None:
                self._limits.reloaded(self._supervisor.fleet.serving.plan.settings, self._bus.carrier)
        if self._autoreload is not None:
            self._autoreload.follow(sources, files, since)

    def readiness_changed(self) -> None:
        if self._admin is not None:
            self._admin.state_changed()

    def handed_over(self) -> None:
        """The new program of an upgrade serves."""
        if self._admin is not None:
            self._admin.hand_over()
        if self._bus is not None:
            self._bus.hand_over()
        self._supervisor.sides.hand_over()
        self._end_autoreload()

    # Descriptors and addresses

    def descriptors(self) -> list[int]:
        """What no worker and no helper keeps, beside those of side processes."""
        found = [fd for listener in self._unwanted for fd in listener.descriptors()]
        for each in (self._log_process, self._access_writer, self._admin, self._bus):
            found += each.descriptors() if each is not None else []
        return found

    def handed(self) -> tuple[list[dict[str, Any]], int, list[int]]:
        """For the new program of an upgrade: the admin listeners, StatsD's file, and the descriptors of both."""
        if self._admin is None:
            return [], -1, []
        return self._admin.inherited(), self._admin.statsd, self._admin.descriptors()

    def handed_bus(self) -> list[int]:
        """The door of the bus, and its socket, for the new program."""
        return self._bus.handed() if self._bus is not None else []

    def addresses(self) -> dict[str, list[str]]:
        """Of the admin process, by the setting that says so."""
        return self._admin.addresses() if self._admin is not None else {}

    def listeners(self) -> list[Listener]:
        """Of the admin process, of this program or the one before it."""
        return [*(self._admin.listeners() if self._admin is not None else ()), *self._unwanted]

    # The end

    def end_log(self, undo: ExitStack, guard: Guard) -> None:
        """Has `undo` end the process of the log: pushed first, so that all that ends can be told."""
        undo.callback(guard.last_step, "end the process of its log", self._end_log)

    def end(self, undo: ExitStack, guard: Guard) -> None:
        """Has `undo` close the rest."""
        if self._admin is not None:
            undo.callback(guard.last_step, "close the addresses of its admin process", self._admin.close)
        if self._bus is not None:
            undo.callback(guard.last_step, "close its bus socket", self._bus.close)
        undo.callback(guard.last_step, "end the process that watches files", self._end_autoreload)

    def _end_autoreload(self) -> None:
        if self._autoreload is not None:
            self._autoreload.close()

    def _end_log(self) -> None:
        if self._log_process is not None:
            self._log_process.close()
