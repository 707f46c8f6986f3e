"""The measuring of `pronghorn bench`: rounds over all contenders, interleaved, each cell by one load of its own.

Law: every contender is started once and stays up, so that a noisy moment strikes all alike; one that has ended is
started again for its next cell. All of them end with `measured`'s block, however it ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import msgspec

from pronghorn.bench.learning import NothingLearnt, learn
from pronghorn.bench.loads import Job, LoadFailed, Loads, Outcome, loads
from pronghorn.bench.results import BOTH, ENDED, LOAD, SERVER, Cell, Round
from pronghorn.bench.script import Spec
from pronghorn.bench.servers import Contender, Running, running
from pronghorn.errors import PronghornError
from pronghorn.system.processors import processors

FULL = 0.9  # of the time of a load process, or of a worker's processor
FEW = 16  # clients that a server answers before its idle memory is taken
MANY = 64  # connections at least, for their memory to be told from the server's own
TRIAL = 0.1  # seconds of the load that comes before that
MOST_FROM_ONE = 20_000  # connections from one address: the kernel has some 28,000 ports for it
SOURCES = 250
MISSING = {"timeout": "there is no first reply", "no greeting": "the server does not begin, as greeting() expects"}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Times in seconds; `rate` in messages a second, 0: closed loop; `loads` are load processes, 0:
    as many as it takes and as there are processors for."""

    contenders: tuple[Contender, ...]
    clients: tuple[int, ...]
    size: int = 64
    depth: int = 1
    seconds: float = 3.0
    warm_up: float = 0.5
    rounds: int = 1
    connect: bool = False
    rate: float = 0.0
    timeout: float = 10.0
    loads: int = 0
    script: str = ""
    message: bytes = b""

    @property
    def cells(self) -> int:
        return len(self.contenders) * len(self.clients) * self.rounds


class Watcher(Protocol):
    """Who is told how far the measuring is."""

    def begins(self, name: str, clients: int) -> None: ...
    def goes_on(self, messages: int) -> None: ...
    def done(self, cell: Cell) -> None: ...
    def failed(self, name: str, error: PronghornError) -> None: ...
    def learnt(self, words: str) -> None: ...


class Measuring:
    """The contenders that run, what clients say to them, and the cells so far."""

    def __init__(self, plan: Plan, watcher: Watcher, stack: ExitStack) -> None:
        self.plan, self.watcher = plan, watcher
        self.cells: dict[tuple[str, int], Cell] = {}
        self.unknown: dict[str, str] = {}
        """Why the processor time of a contender is not known."""
        self.dropped: set[str] = set()
        self._stack = stack
        self._running: dict[str, tuple[Running, ExitStack]] = {}
        self._talk: Spec | None = None
        self._loads = plan.loads or 1
        self._usable = processors().usable

    def rounds(self) -> Iterator[Cell]:
        """Measures all; each cell once it has one round more. The error of a contender ends that contender alone."""
        for number in range(self.plan.rounds):
            for clients in self.plan.clients:
                for contender in self.plan.contenders:
                    if contender.name not in self.dropped:
                        yield from self._attempted(contender, clients, first=number == 0)

    def _attempted(self, contender: Contender, clients: int, first: bool) -> Iterator[Cell]:
        self.watcher.begins(contender.name, clients)
        try:
            found = self._measured(self._up(contender), clients, first)
        except (LoadFailed, NothingLearnt):
            raise
        except PronghornError as error:
            self.dropped.add(contender.name)
            self.watcher.failed(contender.name, error)
            return
        cell = self.cells.setdefault((contender.name, clients), Cell(contender.name, clients, []))
        cell.rounds.append(found)
        self.watcher.done(cell)
        yield cell

    def _up(self, contender: Contender) -> Running:
        """The contender that runs; started, and with its idle memory known, if it is not."""
        if contender.name in self._running:
            server, stack = self._running[contender.name]
            if not server.ended():
                return server
            stack.close()
        stack = self._stack.enter_context(ExitStack())
        server = stack.enter_context(running(contender))
        self._running[contender.name] = server, stack
        if server.unknown:
            self.unknown[contender.name] = server.unknown
        if self._talk is None:
            self._talk = self._learnt(server)
        with contextlib.suppress(LoadFailed), loads(self._job(server, FEW, self._talk)) as load:
            load.run(TRIAL)
        server.settled()
        server.idle = server.held()
        return server

    def _learnt(self, server: Running) -> Spec:
        """What clients say, from now on to all contenders. Raises PronghornError."""
        plan = self.plan
        if not plan.script:
            try:
                learnt = learn(server.address, plan.size, plan.message, plan.connect)
            except OSError as error:
                why = f"{error.strerror or error}."
                raise PronghornError(f"{server.contender.name} cannot be asked.", why) from None
            self.watcher.learnt(learnt.words)
            return learnt.spec
        talk = {"kind": "script", "path": plan.script}
        job = msgspec.structs.replace(self._job(server, 1, talk), connect=False, rate=0.0)  # one message, at once
        try:
            with loads(job) as load:
                outcome = load.first(plan.timeout + 1.0)  # the server may have something to begin with it
        except LoadFailed as error:
            raise NothingLearnt(f"--script {plan.script} cannot be used.", error.why) from None
        for kind, (_, example) in (outcome.errors or load.errors).items():
            what = MISSING.get(kind, f"the first reply is no good ({kind})")
            raise NothingLearnt(f"--script {plan.script}: {what}.", f"{example}.")
        if not outcome.messages:
            raise NothingLearnt(f"--script {plan.script}: there is no first reply.")
        return talk

    def _job(self, server: Running, clients: int, talk: Spec) -> Job:
        plan = self.plan
        local = isinstance(server.address, tuple) and server.address[0].startswith("127.")
        return Job(
            server.address,
            talk,
            clients=clients,
            depth=plan.depth,
            connect=plan.connect,
            rate=plan.rate if clients > FEW or clients in plan.clients else 0.0,
            timeout=plan.timeout,
            sources=SOURCES if local and (plan.connect or clients > MOST_FROM_ONE) else 0,
        )

    def _measured(self, server: Running, clients: int, first: bool) -> Round:
        """One round of one cell. Where the load processes are the limit, and there are processors for more of them, it
        is begun again with more."""
        assert self._talk is not None
        while True:
            job = self._job(server, clients, self._talk)
            with loads(job, self._loads) as load:
                if self.plan.warm_up:
                    trial, limit, _ = self._run(server, load, self.plan.warm_up)
                    most = self.plan.loads or self._usable - server.contender.workers
                    more = min(most, 2 * self._loads, clients)
                    if limit == LOAD and more > self._loads and trial.messages:
                        self._loads = more
                        continue
                outcome, limit, cpu = self._run(server, load, self.plan.seconds)
                memory = None
                whole = not (self.plan.connect or outcome.unserved or outcome.errors)
                if first and whole and server.roots and clients >= MANY:
                    server.settled()
                    memory = max(0.0, (server.held() - server.idle) / clients)
                return self._round(server, load, outcome, limit, cpu, memory)

    def _run(self, server: Running, load: Loads, seconds: float) -> tuple[Outcome, str, float | None]:
        """A run, who was its limit, and the seconds of processor time that the server used."""
        before = server.settled() if self.plan.connect else server.spent()
        waited, began = server.waited(), time.monotonic()
        outcome = load.run(seconds, self.watcher.goes_on)
        wall = time.monotonic() - began
        ran = server.spent() - before
        wanted = (ran + max(0.0, server.waited() - waited)) / wall
        most = min(server.contender.workers, self._usable)
        busy = outcome.busy >= FULL, bool(server.roots) and wanted >= FULL * most
        limit = {(True, False): LOAD, (False, True): SERVER, (True, True): BOTH}.get(busy, "")
        if not server.roots or server.ended():
            return outcome, limit, None
        return outcome, limit, (server.settled() if self.plan.connect else server.spent()) - before

    def _round(
        self, server: Running, load: Loads, outcome: Outcome, limit: str, cpu: float | None, memory: float | None
    ) -> Round:
        if ended := server.ended():
            outcome.note({ENDED: (1, ended)})
        count = outcome.messages
        return Round(
            throughput=outcome.throughput,
            messages=count,
            latencies=outcome.latencies,
            cpu=cpu / count if cpu is not None and count else None,
            memory=memory,
            errors=outcome.errors,
            unserved=outcome.unserved,
            unanswered=outcome.unanswered,
            behind=outcome.behind,
            late=outcome.late.quantile(0.99) if outcome.late.counts else 0.0,
            limit=limit,
            loads=load.count,
            load_cpu=outcome.cpu / count if count else 0.0,
        )


@contextmanager
def measuring(plan: Plan, watcher: Watcher) -> Iterator[Measuring]:
    """A Measuring; at the end of the block all that it has started ends."""
    with ExitStack() as stack:
        yield Measuring(plan, watcher, stack)


def unlike(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """The same with names that are unlike: a second one of a name has a number."""
    seen: dict[str, int] = {}
    found = []
    for each in contenders:
        count = seen[each.name] = seen.get(each.name, 0) + 1
        found.append(msgspec.structs.replace(each, name=f"{each.name}-{count}") if count > 1 else each)
    return tuple(found)
