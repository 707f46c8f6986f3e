"""One process that serves: it loads the handler, says READY, lets its model run, and leaves.

Law: a worker knows its own signals and its line to the supervisor, and nothing of bytes or of other workers. It is
born with every signal blocked, puts its dispositions right, and only then unblocks them: a TERM sent right after
fork(2) is never lost. Until its model has entered its loop TERM simply ends it, for it holds no connection yet; from
then on it is ready, and TERM begins the drain. A TERM of somebody else than the supervisor is passed on to the
supervisor, which answers: if the whole process group got it, clients must be kept out before a worker lets go of the
listeners. Ctrl-C and Ctrl-\\ reach the whole process group, so INT and QUIT do nothing here: the supervisor decides.
The end of the line means that the supervisor is gone, and the death signal of prctl(2) says the same to a worker that
is stuck in its handler. Then nobody is left who would kill a worker that hangs: a timer of the kernel does, a grace
after the drain deadline. One more ends a worker whose main thread has computed for so long that its supervisor would
have killed it; as long as the worker turns, it is put off. What the handler's module does while it is imported,
SystemExit and KeyboardInterrupt included, is the handler's fault and not ours.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from pronghorn.errors import PeerError, PronghornError
from pronghorn.events import DrainFinished, LifespanFailed, LogLevelSet, Observer, SignalsTaken, WorkLeft
from pronghorn.handlers.loading import load_handler
from pronghorn.lifespans import ASYNC, Lifespan
from pronghorn.listening.socket_options import options
from pronghorn.models import registry
from pronghorn.scoreboard.row import Row
from pronghorn.scoreboard.stacks import Remains, Stacks
from pronghorn.serving.context import Context
from pronghorn.settings import Settings
from pronghorn.system import privileges, process_exit
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
from pronghorn.worker.plan import Plan
from pronghorn.worker.reports import (
    CUT_AT_DEADLINE,
    LONGEST_TRACE,
    Crashed,
    Failed,
    Finished,
    LetGo,
    Line,
    Ready,
    Release,
    Stage,
    Word,
)

if TYPE_CHECKING:
    pass

GRACE = 4.0  # seconds beyond the drain timeout: to cancel, to cut, to wait for flows, and to leave the lifespan
STACKS = 2.0  # seconds that a worker gets to write down its stacks after SIGABRT


def work(
    plan: Plan,
    row: Row,
    end: socket.socket,
    remains: Remains,
    mask: Iterable[signal.Signals | int],
    left: Iterable[int],
) -> NoReturn:
    """Runs in the child, right after fork(2) with all signals blocked; never returns and never raises.

    `row` is this worker's own, as is what `remains` of it, `end` its end of the line, `mask` the signals that shall be
    blocked while it serves, and `left` the descriptors that belong to the supervisor and are closed here. The process
    leaves with 0, or 6 when the drain deadline cut connections, or the exit code of the error that it reported.
    """
    code = 1
    try:
        drain = Drain(plan.settings.drain_timeout, lambda names: plan.observe(WorkLeft(names)))
        line = Line(end, lambda: abandoned(drain, plan.settings), lambda word: obey(drain, word))
        try:
            close_descriptors(left)
            code = _serve(plan, row, remains, line, drain, mask)
        except BaseException as error:
            if isinstance(error, PronghornError) and not isinstance(error, PeerError):
                line.tell(Failed(error.parts(kind=True)))
                code = error.exit_code
            else:
                import traceback

                line.tell(Crashed(traceback.format_exc()[-LONGEST_TRACE:]))
    finally:
        leave(code)


def obey(drain: Drain, word: Word) -> None:
    """Does what the supervisor says."""
    if isinstance(word, Release):
        drain.let_go(word.alone)
    else:
        drain.begin(word.why)


def abandoned(drain: Drain, settings: Settings) -> None:
    """The supervisor is gone: the process drains, and ends a grace after the drain deadline, even if it hangs."""
    drain.begin("the supervisor is gone")
    faulthandler.enable(file=2)  # nobody else reads its stacks any more
    Watchdog().put_off(settings.drain_timeout + GRACE)


def turning(settings: Settings) -> Callable[[], None]:
    """What the worker calls while it turns: the main thread may compute for so long until the next call. A supervisor
    that lives would have killed it before. So may the process on all processors: another thread that computes in C
    keeps the interpreter, and the main thread waits."""
    watchdog, of_all = Watchdog(THREAD_TIME), Watchdog(PROCESS_TIME)
    patience = max(settings.worker_silence, settings.drain_timeout) + STACKS + GRACE
    processors = os.cpu_count() or 1

    def turns() -> None:
        if settings.worker_silence:
            watchdog.put_off(patience)
            of_all.put_off(patience * processors)

    return turns


def _settle_in(plan: Plan, stacks: Stacks) -> Reopener:
    """What a new process puts right before it does anything else; it is the user's own afterwards."""
    process_exit.begin(keep_imports=True)
    faulthandler.enable(file=stacks.fileno())
    reset_signals()
    if ASK_STACKS:
        faulthandler.register(ASK_STACKS, file=stacks.fileno(), all_threads=True)
    reopener = Reopener(plan.observe)
    prefer_when_out_of_memory()
    die_with_parent(signal.SIGTERM)
    privileges.forgo(plan.settings, plan.source)
    privileges.drop()
    die_with_parent(signal.SIGTERM)  # who changes his credentials loses it
    return reopener


def _take_on(plan: Plan) -> None:
    """What the generation's settings mean to this process alone."""
    if plan.folder:
        os.chdir(plan.folder)
    for listener in plan.listeners:
        listener.expect(options(plan.settings))
    plan.observe(LogLevelSet(plan.settings.log_level))
    registry.prepare(plan.model, plan.facts)


def _serve(
    plan: Plan, row: Row, remains: Remains, line: Line, drain: Drain, mask: Iterable[signal.Signals | int]
) -> int:
    settings, model = plan.settings, plan.model
    supervisor, me = os.getppid(), os.getpid()
    row.starting(me)
    name_process(f"worker {row.slot} {model.name} of {supervisor}")
    reopener = _settle_in(plan, remains.stacks)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _take_on(plan)
    line.tell(Stage("it imported its handler"))
    handler = load_handler(plan.source, settings)

    def begin_drain(number: int, frame: FrameType | None) -> None:
        if os.getpid() == me and os.getppid() != supervisor:  # a child of the fork model is its worker's
            abandoned(drain, settings)
        elif os.getpid() != me or drain.begun or line.may_finish():
            drain.begin(signal.Signals(number).name)

    keep_signals_in_forks(lambda: _leave_term(drain, begin_drain))
    turns = turning(settings)

    def ready() -> None:
        turns()
        _take_back(plan.observe, begin_drain)
        row.now_serving(os.getpid())
        line.tell(Ready())

    life = handler.lifespan
    with _lived(life, plan.observe, line) as on_loop:
        context = Context(
            listeners=plan.listeners, handler=handler, settings=settings, model=model, drain=drain,
            observe=plan.observe, watched=[line, reopener], row=row, ready=ready, lifespan=on_loop,
            certificates=plan.certificates, let_go=lambda: line.tell(LetGo()), turns=turns, remains=remains,
            drained=lambda: _drained(context, line),
        )  # fmt: skip
        cut = registry.run(model, context)
    process_exit.end(lambda: drain.deadline, drain.lost, lambda: row.tick(time.monotonic()))
    return CUT_AT_DEADLINE if cut else 0


def _leave_term(drain: Drain, begin_drain: Any) -> None:
    """In a forked process that is the handler's own: TERM ends it as the system does. A handler of Python's is called
    between two steps of Python's, and a process that waits in C, as for a lock, may never come to one."""
    if drain.owner != ANYBODY and signal.getsignal(signal.SIGTERM) is begin_drain:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _take_back(observe: Observer, begin_drain: Any) -> None:
    """Has the signals that are the server's, whatever the handler's import and its lifespan have set, and says so."""
    ours = {signal.SIGTERM: (begin_drain, signal.SIG_DFL), signal.SIGINT: (nothing, nothing)}
    taken = tuple(number.name for number, (_, before) in ours.items() if signal.getsignal(number) is not before)
    for number, (handler, _) in ours.items():
        signal.signal(number, handler)
    if taken:
        observe(SignalsTaken(taken))


@contextlib.contextmanager
def _lived(life: Lifespan | None, observe: Observer, line: Line) -> Iterator[Lifespan | None]:
    """Within the handler's lifespan, if it has a sync one; yields an async one, for the model to enter on its loop."""
    if life is None:
        yield None
        return
    life.tell_failures(lambda error: observe(LifespanFailed(life.name, error)))
    line.tell(Stage(f"it entered its lifespan {life.name!r}"))
    if life.kind == ASYNC:
        yield life
    else:
        with life:
            yield None


def _drained(context: Context, line: Line) -> None:
    drain = context.drain
    seconds = time.monotonic() - (drain.deadline - drain.timeout)
    context.observe(
        DrainFinished(context.cut, max(0.0, seconds), tuple(context.cut_off.values()), context.handler.facts.style)
    )
    line.tell(Finished(context.cut))


def leave(code: int) -> NoReturn:
    """Flushes standard output and error and ends the process at once, whatever threads it has and whatever the stack
    below belongs to: in a script, that is the script's."""
    flush_streams()
    os._exit(code)
