"""The facade: from a handler and settings to a server that serves, and its exit status.

Law: everything that can be refused is refused before anything is bound; then the listeners are opened, and the
supervisor has the rest; what stands beside it is put together in beside.py. Run as `python -P -m pronghorn.server FD`
it is the lean process that the command line turns itself into: it imports no command line, and the user's handler
never.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn import events
from pronghorn.beside import Beside
from pronghorn.boot import Boot, Handed, Starter
from pronghorn.control.commands import Commands
from pronghorn.control.server import open_control
from pronghorn.errors import BadHandler, PronghornError
from pronghorn.handlers import loading
from pronghorn.listening.binding import activated_listeners, renew
from pronghorn.listening.conflicts import explained, held_by_orphans, once_free
from pronghorn.listening.listener import Listener
from pronghorn.observers.systemd import SystemdObserver
from pronghorn.scoreboard.board import Scoreboard
from pronghorn.settings import Settings
from pronghorn.settings.bus import OFF
from pronghorn.settings.layers import Layers, absolute, named_folder
from pronghorn.settings.model import AUTO
from pronghorn.settings.services import services
from pronghorn.settings.source import Source
from pronghorn.supervisor.callbacks import NewProgram
from pronghorn.supervisor.exception_guard import Guard
from pronghorn.supervisor.listener_numbers import ListenerNumbers
from pronghorn.supervisor.planning import ASKED, Planner, judged
from pronghorn.supervisor.supervisor import Supervisor
from pronghorn.system import descriptors, env_file, log_config
from pronghorn.system.descriptor_queue import DescriptorQueue
from pronghorn.system.processors import processors
from pronghorn.system.signals import SignalPipe, Stopped, ignore_signals, take_term
from pronghorn.system.startup import ProcessSetup
from pronghorn.system.stdio import complain, keep_standard_descriptors, outlet
from pronghorn.worker_process import probe
from pronghorn.worker_process.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from socketserver import BaseServer
    from typing import Unpack

    from pronghorn.settings.keywords import Keywords

    Servable = str | Callable[..., object] | BaseServer | None
    """A handler of any style, or its name as the command takes it."""


class Server:
    """One server: a handler (an object, a name, or a Source) and its settings, or the `layers` of both.

    `alone` says that the process has no other purpose: it may then be renamed and adopt orphans. `starter` hears when
    the server serves. `handed` is what an older program of this server hands over. `held` are handlers of listeners
    that are objects, by the names that stand for them in the settings.
    """

    def __init__(
        self,
        handler: object = None,
        settings: Settings | None = None,
        *,
        layers: Layers | None = None,
        alone: bool = False,
        starter: Starter | None = None,
        handed: Handed | None = None,
        held: Mapping[str, Any] | None = None,
    ) -> None:
        if layers is not None:
            settled = layers.settle()
            settings = settled.settings
            handler = settled.source if handler is None else handler
        self.source: Any = Source(name=handler or "upper") if handler is None or isinstance(handler, str) else handler
        self.settings = settings if settings is not None else Settings()
        self._layers = layers
        self._alone = alone
        self._starter = starter if starter is not None else Starter()
        self._handed = handed
        self._held = held or {}
        self._folder = named_folder()
        self._since = time.time_ns()  # later changes of files lead to a reload, with --reload

    def run(self) -> int:
        """Serves until a signal ends it; the exit status is 0, 6 when the drain deadline cut connections, 128 + n when
        signal n ended it at once. TERM during the start is a stop in order: 0.

        Raises PronghornError for everything that keeps it from serving; nothing is left bound or running then. Only
        for the main thread, whose signal handlers are as before afterwards.
        """
        if threading.current_thread() is not threading.main_thread():
            raise PronghornError("A server runs in the main thread only.", "Signals are delivered there.")
        try:
            before = os.getppid() if self._handed else 0
            with (
                SignalPipe(last=self._alone) as self._signals,
                ProcessSetup(self.settings, before) as self._setup,
            ):
                return self._prepare()
        except Stopped as stopped:
            return stopped.status

    def _prepare(self) -> int:
        self._raise_limit()
        activated = activated_listeners(os.environ)
        handed = self._handed.listeners if self._handed else []
        self._inherited = activated + [Listener.adopt(each) for each in handed]
        os.environ.update(self._handed.environment if self._handed else {})
        self._systemd = SystemdObserver(os.environ)
        if self.settings.log_config:
            log_config.apply(self.settings.log_config)
        outlet.keep()
        self._board, self._queue = self._shared()
        self._bus = self._bus_door()
        with ExitStack() as undo:
            undo.callback(self._board.close)
            undo.callback(self._queue.close)
            if self._bus is not None:
                undo.callback(self._bus.close)
            undo.callback(outlet.release)
            systemd = [self._systemd] if self._systemd else []
            self._beside = Beside(self.settings, self._board, systemd, self._handed, undo)
            self._observe = self._beside.observe
            planner = self._planner()
            self._beside.check()
            if self.settings.reload:  # code that has changed within a second, and is as long, would be taken from there
                sys.dont_write_bytecode = True
            variables, served = env_file.read(self.settings), services(self.settings)
            asked = planner.asked(self.source, served)
            self._preload(each.source for each in asked)
            facts = planner.facts(asked)
            facts = facts or probe.ask(asked, self.settings, self._signals.descriptors(), variables)
            draft = planner.draft(self.source, self.settings, asked, facts, "", variables)
            self._beside.open_access_log(draft.access_log().path)
            plan = once_free(lambda: planner.plan(draft, served, self._inherited), held_by_orphans)
            self._supervise(planner, plan)
            return self._run()

    def _supervise(self, planner: Planner, plan: Plan) -> None:
        """Makes the supervisor, and opens what else it answers at."""
        handed = self._handed
        try:
            self._supervisor = Supervisor(planner, plan, self, self._signals, alone=self._alone, handed=handed)
            self._commands = Commands(self._supervisor, plan.server)
            self._beside.open_admin(self._supervisor, self._commands)
            address, control = plan.listeners[0].address, handed.control if handed else ()
            self._control = open_control(self.settings, address, self._observe, control)
            if self._bus is not None:
                self._beside.open_bus(self._bus, self._control.path if self._control is not None else "")
        except BaseException:
            _close([*plan.listeners, *self._beside.listeners()])
            raise

    def _preload(self, sources: Iterable[object]) -> None:
        if self.settings.preload:
            from pronghorn.system.preload import preload  # here: few servers have any

            preload(self.settings, sources)

    def _shared(self) -> tuple[Scoreboard, DescriptorQueue]:
        """What all processes of the server share: of the program before this one, if there was one."""
        handed = self._handed
        if handed is None:
            return Scoreboard.create(), DescriptorQueue.create()
        queue = DescriptorQueue.adopt(handed.queue) if handed.queue else DescriptorQueue.create()
        return Scoreboard.adopt(handed.board), queue

    def _bus_door(self) -> DescriptorQueue | None:
        """Where processes of the server ask for the hub of the bus; None without a bus."""
        if self.settings.bus == OFF:
            return None
        if self._handed is not None and self._handed.bus:
            return DescriptorQueue.adopt(self._handed.bus[:2])
        return DescriptorQueue.create()

    def _planner(self) -> Planner:
        self._numbers = ListenerNumbers(self._handed.listener_numbers if self._handed else {})
        folder = os.path.join(self._folder, self.settings.chdir)
        about = (self._layers, self.source, self.settings, self._board, self._observe, explained, folder, self._queue)
        return Planner(*about, held=self._held, numbers=self._numbers, bus=self._bus)

    def _run(self) -> int:
        fleet, guard = self._supervisor.fleet, Guard(self._observe)
        with ExitStack() as undo:
            self._beside.end_log(undo, guard)
            undo.callback(guard.last_step, "close its addresses", lambda: _close(fleet.serving.plan.listeners))
            if self._control is not None:
                undo.callback(guard.last_step, "close its control socket", self._control.close)
            self._beside.end(undo, guard)
            self._beside.attach(self._supervisor)
            return self._supervisor.run()

    def _control_descriptors(self) -> list[int]:
        return self._control.descriptors() if self._control is not None else []

    # What the supervisor calls: see supervisor/callbacks.py.

    def serves(self) -> None:
        file = self._layers.file if self._layers is not None else ""
        plan = self._supervisor.fleet.serving.plan
        self._setup.serving()
        started = self._started = self._facts(plan)
        if started.why_model != ASKED:
            self._observe(events.ModelChosen(started.model, started.why_model))
        settings = plan.settings
        if settings.workers == AUTO:
            self._observe(events.WorkersChosen(plan.workers, plan.model.name, processors().why))
        self._observe(started)
        lasts = settings.old_workers_spread or settings.old_workers_timeout
        self._observe(events.ReloadWay(settings.on_reload, lasts, plan.stay_because))
        for event in self._setup.at_risk(os.path.join(self._folder, file) if file else ""):
            self._observe(event)
        for event in plan.told_of_certificates():
            self._observe(event)
        for listener in plan.listeners:
            renew([listener], plan.service_at(listener).settings)
        for listener in self._inherited:
            listener.take_over()
            if listener not in plan.listeners:
                listener.close()
        self._beside.take_over()
        if self._control is not None:
            self._control.serve(self._supervisor.poller, self._commands)
        self._beside.watch_files(file, self._since)
        addresses, takes = [listener.address for listener in plan.listeners], not plan.stay_because
        report = {"listening": addresses, "model": plan.model.name, "pid": os.getpid(), "takes": takes}
        self._starter.tell({**report, **self._beside.addresses()})

    def started(self, ready: int, wanted: int) -> None:
        started = self._started
        self._observe(events.WorkersStarted(started.handler, started.style, started.model, ready, wanted))

    def kept(self) -> list[int]:
        inherited = [fd for listener in self._inherited for fd in listener.descriptors()]
        ours = [*self._signals.descriptors(), *self._setup.descriptors(), *self._control_descriptors()]
        beside = [*self._beside.descriptors(), *self._supervisor.sides.descriptors()]
        return [*self._starter.descriptors(), *ours, *inherited, *beside]

    def reopen(self) -> None:
        self._beside.reopen()

    def turn(self, now: float) -> None:
        self._beside.turn(now)
        if self._control is not None:
            self._control.tick(now)

    def reloaded(self, sources: Sequence[Any], files: Sequence[str], since: int) -> None:
        file = self._layers.file if self._layers is not None else ""
        self._beside.reloaded(sources, [file, *files], since)

    def new_program(self, generation: int) -> NewProgram:
        if not self._alone or self._layers is None:
            why = "A script holds its handler."
            raise PronghornError("This server cannot be upgraded.", why, "Restart the script.")
        fleet, predecessors = self._supervisor.fleet, self._supervisor.predecessors
        listeners, control = fleet.serving.plan.listeners, self._control_descriptors()
        admin, statsd, of_admin = self._beside.handed()
        handed = Handed(
            board=self._board.fileno(),
            listeners=[listener.inherited() for listener in listeners],
            control=control,
            generation=generation,
            descriptors=descriptors.original or 0,
            environment=self._systemd.handed,
            predecessors=predecessors.records(os.getpid()),
            queue=self._queue.descriptors(),
            workers=fleet.resized,
            listener_numbers=self._numbers.known,
            admin=admin,
            statsd=statsd,
            bus=self._beside.handed_bus(),
        )
        boot = msgspec.json.encode(Boot(self._layers, argv0=sys.argv[0], handed=handed))
        passed = [handed.board, *control, *handed.queue, *(fd for each in listeners for fd in each.descriptors())]
        return NewProgram(boot, [*passed, *of_admin, *handed.bus], self._folder)

    def readiness_changed(self) -> None:
        self._beside.readiness_changed()

    def handed_over(self) -> None:
        for listener in self._supervisor.fleet.serving.plan.listeners:
            listener.hand_over()
        if self._control is not None:
            self._control.hand_over()
        self._beside.handed_over()

    def _raise_limit(self) -> None:
        """Raises the soft limit of descriptors to the hard one; programs get the original one back."""
        original, _ = descriptors.raise_descriptor_limit()
        descriptors.original = self._handed.descriptors if self._handed else original

    def _facts(self, plan: Plan) -> events.ServerStarted:
        model, why = judged(plan.services, plan.facts, plan.settings)
        workers = len(self._supervisor.fleet.serving.slots)
        each, why_limit = model.capacity(plan.settings, descriptors.descriptors_for_connections())
        most, limit = each * workers, plan.settings.max_connections
        if limit is not None and limit < most:
            most, why_limit = limit, "--max-connections"
        name = ", ".join(dict.fromkeys(each.name for each in plan.facts))
        style = ", ".join(dict.fromkeys(each.style for each in plan.facts))
        return events.ServerStarted(name, style, model.name, why, workers, most, why_limit)


def _close(listeners: list[Listener]) -> None:
    with ExitStack() as undo:
        for listener in listeners:
            undo.callback(listener.close)


def serve(handler: Servable = None, *, config: str = "", **settings: Unpack[Keywords]) -> None:
    """Serve from a script what the command would serve; returns when the server was stopped in order.

    `handler` is the handler itself, or its name as the command takes it; the default is the settings file's, or the
    upper-case service. Each setting is a keyword; `bind` is an address or a list of them. `config` is the path of a
    settings file, whose values count where there is no keyword. A reload (SIGHUP) reads the file anew, and the code of
    a handler that was given by name; an object stays what it is. Whatever goes wrong is printed as the command prints
    it and ends the script: SystemExit with the exit code. Signal handlers are as before afterwards.
    """
    if loading.in_progress:
        raise BadHandler(
            "serve() is called while the handler is imported.",
            "The module that holds the handler starts a server as soon as it is imported.",
            'Put the call under: if __name__ == "__main__":',
        )
    try:
        source = Source(name=handler) if isinstance(handler, str) else None
        file = absolute(config) if config else ""
        given: dict[str, Any] = {**settings}
        held = loading.hold_handlers(given)
        layers = Layers(given, {name: name for name in given}, source, file)
        status = Server(handler if source is None else None, layers=layers, held=held).run()
    except PronghornError as error:
        status = complain(error)
    except KeyboardInterrupt:
        status = 130
    if status:
        raise SystemExit(status)


def main() -> int:
    """What `python -m pronghorn.server FD` does; FD holds a Boot as JSON. Returns the exit status."""
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        complain(PronghornError("This is a part of Pronghorn.", hint="Start a server with: pronghorn serve"))
        return 2
    keep_standard_descriptors()
    faulthandler.enable(file=2)
    with open(int(sys.argv[1]), "rb") as file:
        boot = msgspec.json.decode(file.read(), type=Boot)
    sys.argv = [boot.argv0]
    starter = Starter(boot.report_fd)
    try:
        return Server(layers=boot.layers, alone=True, starter=starter, handed=boot.handed).run()
    except PronghornError as error:
        starter.failed(error)
        return complain(error)
    except KeyboardInterrupt:
        return 130


def run() -> int:
    """The same, for a process whose start a signal may end at any time."""
    try:
        take_term()
        return main()
    except Stopped as stopped:
        return stopped.status
    finally:
        ignore_signals()


if __name__ == "__main__":
    sys.exit(run())
