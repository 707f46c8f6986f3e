"""A worker: a process that loads the handler, reports that it is ready, runs one model, and ends.

Law: a worker knows its own signals and its line to the supervisor, and nothing of bytes or of other workers.

All signals are blocked when it is forked, and unblocked once its dispositions are right: a TERM sent right after
fork(2) is never lost. Until the model has entered its loop, TERM simply ends the process, which holds no connection
yet; from then on TERM begins the drain. A TERM of another process than the supervisor is reported to the supervisor,
which orders the drain: if the whole process group got the signal, clients are kept out before a worker closes its
listeners. Ctrl-C and Ctrl-\\ reach the whole process group, so INT and QUIT do nothing here.

The end of the line means that the supervisor is gone; the death signal of prctl(2) says the same to a worker that is
stuck in its handler. Then a timer of the kernel ends the process a grace after the drain deadline. Another timer ends a
worker whose main thread computes for longer than its supervisor would allow; each turn of the worker puts it off.

What the handler's module raises while it is imported, SystemExit and KeyboardInterrupt included, is the handler's fault
and not the server's.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from pronghorn import identity, lifespans
from pronghorn.errors import PeerError, PronghornError
from pronghorn.events import (
    DrainFinished,
    Event,
    LifespanFailed,
    LogLevelSet,
    ObserverFailed,
    SignalsTaken,
    SlowMember,
    WorkLeft,
)
from pronghorn.handlers.handler import Handler
from pronghorn.handlers.loading import Asked, load_all
from pronghorn.identity import WorkerFacts
from pronghorn.lifespans import ASYNC, Lifespan
from pronghorn.listening.socket_options import options
from pronghorn.models import registry
from pronghorn.scoreboard import details, service_times
from pronghorn.scoreboard.details import WORD, Details, Shared
from pronghorn.scoreboard.row import Row
from pronghorn.scoreboard.stacks import Remains
from pronghorn.serving.context import Context
from pronghorn.serving.handover import Handover
from pronghorn.serving.service import Offer, Service
from pronghorn.settings import Settings
from pronghorn.system import env_file, privileges, process_exit
from pronghorn.system.drain import ANYBODY, Drain
from pronghorn.system.log_file import Reopener
from pronghorn.system.processes import (
    close_descriptors,
    die_with_parent,
    flush_streams,
    name_process,
    prefer_when_out_of_memory,
)
from pronghorn.system.signals import ASK_STACKS, keep_signals_in_forks, nothing, reset_signals
from pronghorn.system.watchdog import PROCESS_TIME, THREAD_TIME, Watchdog
from pronghorn.worker_process.answers import Answers
from pronghorn.worker_process.bus_place import bus_place
from pronghorn.worker_process.plan import Plan
from pronghorn.worker_process.reports import (
    CUT_AT_DEADLINE,
    LONGEST_TRACE,
    BeginDrain,
    Crashed,
    Drained,
    HandedOver,
    LineToSupervisor,
    ListenersReleased,
    Order,
    Question,
    Ready,
    ReleaseListeners,
    SetLogLevel,
    StartFailed,
    Starting,
    TakeOver,
)

GRACE = 4.0  # seconds beyond the drain timeout: for tasks that are cancelled, flows of control, and the lifespan's end
_lasting: list[memoryview[int]] = []  # what is mapped and must not be unmapped
STACKS = 2.0  # seconds that a worker gets to write its stacks after SIGABRT


def work(
    plan: Plan,
    row: Row,
    end: socket.socket,
    remains: Remains,
    mask: Iterable[signal.Signals | int],
    left: Iterable[int],
) -> NoReturn:
    """Runs in the child, right after fork(2) with all signals blocked; never returns and never raises.

    `row` and `remains` are this worker's alone, `end` is its end of the line, `mask` are the signals that shall be
    blocked while it serves, and `left` the descriptors that belong to the supervisor and are closed here. The process
    ends with status 0, or 6 when the drain deadline cut connections, or the exit code of the error that it reported.
    """
    code = 1
    try:
        worker = WorkerProcess(plan, row, remains, end)
        try:
            keep_details(plan, row)
            close_descriptors(left)
            code = worker.serve(mask)
        except BaseException as error:
            if isinstance(error, PronghornError) and not isinstance(error, PeerError):
                worker.line.send(StartFailed(error.parts(kind=True)))
                code = error.exit_code
            else:
                import traceback

                worker.line.send(Crashed(traceback.format_exc()[-LONGEST_TRACE:]))
    finally:
        flush_streams()
        os._exit(code)  # whatever threads there are; the stack below belongs to a script, in a script


class ObserverFailures:
    """An observer that counts the failures of others in this process, and in its forks."""

    __slots__ = ("_details",)

    def __init__(self, counted: Details) -> None:
        self._details = counted

    def __call__(self, event: Event) -> None:
        if type(event) is ObserverFailed:
            self._details.add(WORD["observer_failures"])

    def hears(self, kind: type[Event]) -> bool:
        return kind is ObserverFailed


def keep_details(plan: Plan, row: Row) -> None:
    """Have this process, a worker, count in the region of its row; and its children too, under a model that has any.
    Without memory for that it counts nothing there."""
    fd = row.map.fileno()
    try:
        words, copy = details.region(fd, row.index)
    except (OSError, ValueError):
        return
    _lasting.append(words)  # the map is closed by nobody: it would close `copy`, which may be another file by then
    if copy >= 0:
        os.close(copy)
    lock = details.lock_of(fd, row.index) if plan.model.in_children else None
    if plan.settings.wants_metrics:
        row.details = Shared(words, lock) if lock is not None else Details(words)
        service_times.keep_in(row.details)

    def store() -> object:
        from pronghorn.scoreboard.own_metrics import OwnStore  # here: only what is used

        row.own_metrics = OwnStore(words, lock)
        if lock is None:
            os.register_at_fork(after_in_child=sys.modules["pronghorn.metrics"].detach)
        return row.own_metrics

    identity.metrics_store = store
    if (own := sys.modules.get("pronghorn.metrics")) is not None:  # with --preload
        own.attach(store())


def turning(settings: Settings) -> Callable[[], None]:
    """A function that the worker calls in each turn: the main thread may compute for as long as the supervisor would
    allow until the next call. So may the process on all processors: while another thread computes in C, it keeps the
    interpreter, and the main thread waits."""
    watchdog, of_all = Watchdog(THREAD_TIME), Watchdog(PROCESS_TIME)
    patience = max(settings.worker_silence, settings.drain_timeout) + STACKS + GRACE
    processors = os.cpu_count() or 1

    def turns() -> None:
        if settings.worker_silence:
            watchdog.put_off(patience)
            of_all.put_off(patience * processors)

    return turns


class WorkerProcess:
    """This process. `line` leads to the supervisor."""

    def __init__(self, plan: Plan, row: Row, remains: Remains, end: socket.socket) -> None:
        self._plan = plan
        self._row = row
        self._remains = remains
        self._pid, self._supervisor = os.getpid(), os.getppid()
        settings = plan.settings
        lost = lambda names: plan.observe(WorkLeft(names))  # noqa: E731
        self._drain = Drain(settings.drain_timeout, lost, settings.stop_spread)
        self._on_term = self._term  # one object, by which its place among the signals' handlers is known
        self.line = LineToSupervisor(end, self._abandoned, self._obey)
        self._handover: Handover | None = None
        self._context: Context | None = None
        self._answers: Answers | None = None
        if plan.queue is not None and not plan.stay_because:
            self._handover = Handover(plan.queue, lambda outcome: self.line.send(HandedOver(outcome)))

    def _bus_place(self) -> identity.BusPlace | None:
        return bus_place(self._plan.bus, self._plan.settings, self._slow_member) if self._plan.bus else None

    def _slow_member(self, conn: Any, closed: bool, first: bool) -> None:
        if not closed and self._context is not None and self._context.details is not None:
            self._context.details.add(WORD["bus_dropped"])
        if first or closed:
            self._plan.observe(SlowMember(conn.number, conn.peer, closed, conn.listener))

    def serve(self, mask: Iterable[signal.Signals | int]) -> int:
        """The process from its first moment to its last connection; its exit status."""
        plan, row, drain = self._plan, self._row, self._drain
        row.starting(self._pid)
        name_process(f"worker {row.slot} {plan.model.name} of {self._supervisor}")
        reopener = self._prepare_process()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._apply_settings()
        if plan.certificates:
            self._keep_certificates()
        self.line.send(Starting("it imported its handler"))
        handlers = load_all([Asked(each.source, each.settings, each.title) for each in plan.services])
        identity.become(self._facts(), self._bus_place())
        self._make_observers()
        keep_signals_in_forks(self._leave_term)
        turns = turning(plan.settings)
        offers = self._offers(handlers)
        with self._entered(offers) as on_loop:
            context = Context(
                offers=offers,
                settings=plan.settings,
                model=plan.model,
                drain=drain,
                observe=plan.observe,
                row=row,
                watched=[self.line, reopener],
                ready=lambda: self._ready(turns),
                let_go=lambda: self.line.send(ListenersReleased()),
                drained=lambda: self._drained(context),
                turns=turns,
                remains=self._remains,
                lifespans=on_loop,
                handover=self._handover,
            )
            self._context, self._answers = context, Answers(context, self.line.send)
            cut = registry.run(plan.model, context)
            if row.details is not None:
                row.details.copy()
        process_exit.end(lambda: drain.deadline, drain.lost, lambda: row.tick(time.monotonic()))
        return CUT_AT_DEADLINE if cut else 0

    def _make_observers(self) -> None:
        """The user's observers, for this process."""
        add = getattr(self._plan.observe, "add", None)
        if self._plan.settings.observer and add is not None:
            from pronghorn.handlers import user_observers  # here: few servers have any

            add(*user_observers.make(self._plan.settings.observer))
            if self._row.details is not None:
                add(ObserverFailures(self._row.details))

    def _facts(self) -> WorkerFacts:
        row = self._row
        return WorkerFacts(
            number=row.slot, generation=row.generation, unique=row.index, server=self._plan.server, pid=self._pid
        )

    def _prepare_process(self) -> Reopener:
        """Puts right what the fork has inherited; from then on the process is the user's."""
        plan, stacks = self._plan, self._remains.stacks
        process_exit.begin(keep_imports=True)
        faulthandler.enable(file=stacks.fileno())
        reset_signals()
        if ASK_STACKS:
            faulthandler.register(ASK_STACKS, file=stacks.fileno(), all_threads=True)
        reopener = Reopener(plan.observe)
        prefer_when_out_of_memory()
        die_with_parent(signal.SIGTERM)
        for each in plan.services:
            os.environ.pop(each.settings.tls_key_pass_env, None)  # the supervisor's, who reads the keys
        privileges.forgo(plan.settings, [each.source for each in plan.services])
        privileges.drop()
        die_with_parent(signal.SIGTERM)  # a change of user has cleared it
        env_file.apply(plan.environment)
        return reopener

    def _apply_settings(self) -> None:
        """What the settings of the generation mean to this process alone."""
        plan = self._plan
        if plan.folder:
            os.chdir(plan.folder)
        for listener in plan.listeners:
            listener.expect(options(plan.service_at(listener).settings))
        plan.observe(LogLevelSet(plan.settings.log_level))
        plan.observe(plan.access_log())
        registry.prepare(plan.model, plan.facts)

    def _keep_certificates(self) -> None:
        """Have pronghorn.current_tls() find them."""
        from pronghorn.tls import certificates

        plan = self._plan
        found = {each.name: plan.services[each.service].certificates for each in plan.offered}
        certificates.become_current({name: each for name, each in found.items() if each is not None})

    def _offers(self, handlers: Sequence[Handler]) -> list[Offer]:
        """What each listener offers."""
        plan = self._plan
        services = [
            Service(handler, each.settings, each.certificates)
            for handler, each in zip(handlers, plan.services, strict=True)
        ]
        apart = plan.tells_listeners_apart([each.name for each in plan.offered])
        offers = []
        for listener, each in zip(plan.listeners, plan.offered, strict=True):
            counts = self._row.at(each.number) if each.number >= 0 else None
            made = Offer(listener, each.name, services[each.service], number=each.number, counts=counts)
            made.told = each.name if apart else ""
            offers.append(made)
        return offers

    @contextlib.contextmanager
    def _entered(self, offers: Sequence[Offer]) -> Iterator[list[Lifespan]]:
        """Within the sync lifespans of all handlers; yields the async ones, for the model's loop to enter."""
        of_listeners = {each.name: each.service.handler.lifespan for each in offers}
        lives = [*{id(each): each for each in of_listeners.values() if each is not None}.values()]
        if len({id(each) for each in of_listeners.values()}) > 1:
            lifespans.tell_apart(of_listeners)
        with contextlib.ExitStack() as entered:
            for life in lives:
                life.tell_failures(partial(self._lifespan_failed, life.name))
                self.line.send(Starting(f"it entered its lifespan {life.name!r}"))
                if life.kind != ASYNC:
                    entered.enter_context(life)
            yield [each for each in lives if each.kind == ASYNC]

    def _lifespan_failed(self, name: str, error: BaseException) -> None:
        self._plan.observe(LifespanFailed(name, error))

    def _ready(self, turns: Callable[[], None]) -> None:
        turns()
        self._take_signals()
        self._row.now_serving(self._pid)
        self.line.send(Ready())

    def _take_signals(self) -> None:
        """Sets the server's signal handlers, whatever the handler's import and its lifespan have set, and tells it."""
        ours = {signal.SIGTERM: (self._on_term, signal.SIG_DFL), signal.SIGINT: (nothing, nothing)}
        taken = tuple(number.name for number, (_, before) in ours.items() if signal.getsignal(number) is not before)
        for number, (handler, _) in ours.items():
            signal.signal(number, handler)
        if taken:
            self._plan.observe(SignalsTaken(taken))

    def _leave_term(self) -> None:
        """In a process that the handler has forked: TERM ends it as the system does. A handler of Python's is called
        between two steps of Python's, and a process that waits in C, as for a lock, may never come to one."""
        if self._drain.owner != ANYBODY and signal.getsignal(signal.SIGTERM) is self._on_term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _term(self, number: int, frame: FrameType | None) -> None:
        here = os.getpid() == self._pid  # a child of the fork model has this handler, too
        if here and os.getppid() != self._supervisor:
            self._abandoned()
        elif not here or self._drain.begun or self.line.may_drain():
            self._drain.begin(signal.Signals(number).name)

    def _obey(self, order: Order) -> None:
        if isinstance(order, ReleaseListeners):
            self._drain.let_go(order.alone, order.spread)
        elif isinstance(order, BeginDrain):
            self._drain.begin(order.why)
        elif isinstance(order, SetLogLevel):
            self._plan.observe(LogLevelSet(order.level))
            if self._context is not None:
                self._context.ask_who_hears()
        elif isinstance(order, Question):
            if self._answers is not None:
                self._answers.answer(order)
        elif self._handover is not None:
            self._handover.take_over() if isinstance(order, TakeOver) else self._handover.hand_over()

    def _abandoned(self) -> None:
        """The supervisor is gone: the process drains, and ends a grace after the drain deadline, even if it hangs."""
        self._drain.begin("the supervisor is gone")
        faulthandler.enable(file=2)  # no supervisor reads its stacks any more
        Watchdog().put_off(self._drain.timeout + GRACE)

    def _drained(self, context: Context) -> None:
        drain, names = context.drain, tuple(context.cut_off.values())
        styles = ", ".join(dict.fromkeys(each.facts.style for each in context.handlers))
        seconds = max(0.0, time.monotonic() - (drain.deadline - drain.timeout))
        context.observe(DrainFinished(context.cut, seconds, names, styles))
        self.line.send(Drained(context.cut))
