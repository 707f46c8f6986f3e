"""A model of the supervisor: whatever is done to a server, and in whatever order, it comes to rest as it should be.

Hypothesis chooses the steps, the server is a real one. `make proof` runs a hundred sequences of thirty steps; the
environment variables MODEL_SEQUENCES and MODEL_STEPS say how many here.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from launch import Launched, launched, wait_for
from ledger_client import Attempt, Clients
from ledger_reloads import MINE, put
from ledger_sampler import Measure, Sampler
from ledger_trials import in_session, living

MOST_WORKERS = 4
MOST_CLIENTS = 6
GENERATIONS = 3  # --max-generations
PER_WORKER = 2  # descriptors of the supervisor for each: its line, and the memory for its stacks
PATIENCE = 20.0
INDEX = st.integers(0, 99)


def sent(pid: int, number: signal.Signals) -> bool:
    """Whether the worker was still there: one that drains may be gone since it was seen."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Client:
    """One connection: `pid` is who answered it first. One that came at rest has said half a request before anybody was
    told to drain, and will be answered; any other may have said it to a worker that drained already. `changes` is how
    many had been asked for when it came."""

    def __init__(self, server: Launched, number: int, changes: int = 0, at_rest: bool = False) -> None:
        self.at_rest, self.changes = at_rest, changes
        self.clients = Clients(server.address, seed=number, patience=PATIENCE)
        self.attempt: Attempt = self.clients.open("hold", 2)
        self.clients.run(lambda: self.attempt.held or self.attempt.outcome, PATIENCE)
        assert self.attempt.held, f"a client was not served: {self.attempt.row()}\n{server.log}"
        (self.pid,) = self.attempt.pids

    def finish(self) -> str:
        """Sends the other half of its request; the outcome."""
        self.clients.release()
        self.clients.finish(PATIENCE)
        return self.attempt.outcome

    def reset(self) -> None:
        self.attempt.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        self.clients.close()


class Machine(RuleBasedStateMachine):
    """What is done to the server, and what it should be like: `wanted` workers of the code called `version`."""

    patience = PATIENCE

    @initialize(model=st.sampled_from(["epoll", "thread", "asyncio"]), workers=st.integers(1, 3))
    def start(self, model: str, workers: int) -> None:
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        put(self.folder, "mine.py", MINE)
        self.server = self.stack.enter_context(
            launched(self.folder, "mine:reply", model=model, workers=workers, drain_timeout=30.0, start_timeout=20.0)
        )
        self.server.ready(workers)
        self.sampler = self.stack.enter_context(Sampler(self.server.pid, self.server.address[1]))
        self.clients: list[Client] = []
        self.stopped: set[int] = set()
        self.killed: set[int] = set()
        self.wanted, self.version, self.numbers = workers, 0, 0
        self.broken = self.asked = self.unsure = False  # asked: for a reload, since it was last at rest
        self.at_rest = True  # nobody has been told to drain
        self.changes = 0  # reloads and resizes: each may make an old worker of one
        self.seen = ""
        self.others = self.sampler.first.descriptors - PER_WORKER * workers

    # What happens to workers.

    @precondition(lambda self: not self.broken)
    @rule(index=INDEX)
    def kill_a_worker(self, index: int) -> None:
        if workers := sorted(living(self.server.pid)):
            pid = workers[index % len(workers)]
            if sent(pid, signal.SIGKILL):
                self.killed.add(pid)
                self.unsure = self.asked  # it may have been one that a reload needs: then that reload fails
                self.stopped.discard(pid)

    @rule(index=INDEX)
    def stop_a_worker(self, index: int) -> None:
        if workers := sorted(living(self.server.pid)):
            pid = workers[index % len(workers)]
            if sent(pid, signal.SIGSTOP):
                self.stopped.add(pid)

    @rule()
    def let_them_go_on(self) -> None:
        for pid in self.stopped & living(self.server.pid):
            sent(pid, signal.SIGCONT)
        self.stopped.clear()

    # What is asked of the supervisor.

    @rule()
    def reload(self) -> None:
        if not self.broken:
            self.version += 1
            put(self.folder, "version", str(self.version))
        self._hang_up()

    def _hang_up(self) -> None:
        self.asked, self.at_rest = True, False
        self.changes += 1
        self.server.send(signal.SIGHUP)

    @rule(text=st.sampled_from(["1 / 0\n", "def reply(:\n", "import sys\nsys.exit()\n", "other = 1\n"]))
    def break_the_handler_and_reload(self, text: str) -> None:
        if not self.broken:  # a broken handler replaces nobody: there must be somebody
            self.connect_and_reset()
        self.broken = True
        put(self.folder, "mine.py", text)
        self._hang_up()

    @precondition(lambda self: self.broken)
    @rule()
    def mend_the_handler_and_reload(self) -> None:
        put(self.folder, "mine.py", MINE)
        self.broken = False
        self.reload()

    @precondition(lambda self: self.wanted < MOST_WORKERS)
    @rule()
    def one_worker_more(self) -> None:
        self._resize(signal.SIGTTIN, self.wanted + 1)

    @precondition(lambda self: self.wanted > 1)
    @rule()
    def one_worker_less(self) -> None:
        self._resize(signal.SIGTTOU, self.wanted - 1)

    def _resize(self, number: signal.Signals, count: int) -> None:
        self.at_rest = False
        self.changes += 1
        told = self.server.log.count(number.name)
        self.server.send(number)
        wait_for(lambda: self.server.log.count(number.name) > told, "the record", PATIENCE)  # two could become one
        self.wanted = count

    @rule()
    def reopen_the_log(self) -> None:
        self.server.send(signal.SIGUSR1)

    # What clients do.

    @precondition(lambda self: len(self.clients) < MOST_CLIENTS)
    @rule()
    def connect_and_say_half(self) -> None:
        self.let_them_go_on()
        self.numbers += 1
        self.clients.append(Client(self.server, self.numbers, self.changes, self.at_rest))

    @rule()
    def connect_and_reset(self) -> None:
        self.let_them_go_on()
        self.numbers += 1
        Client(self.server, self.numbers).reset()

    @precondition(lambda self: self.clients)
    @rule(index=INDEX)
    def say_the_rest(self, index: int) -> None:
        self.let_them_go_on()
        client = self.clients.pop(index % len(self.clients))
        outcome = client.finish()
        late = outcome == "eof-early" and self._has_to_drain(client)
        assert outcome == "ok" or late or client.pid in self.killed, f"{client.attempt.row()}\n{self.server.log}"
        client.close()

    def _has_to_drain(self, client: Client) -> bool:
        """Whether its worker may be one of more than --max-generations: two changes may have been under way or waiting
        when it came."""
        return self.changes - client.changes + (0 if client.at_rest else 2) >= GENERATIONS

    @precondition(lambda self: self.clients)
    @rule(index=INDEX)
    def reset(self, index: int) -> None:
        self.clients.pop(index % len(self.clients)).reset()

    # What must be true.

    @invariant()
    def it_lives(self) -> None:
        if hasattr(self, "server"):
            assert self.server.process.poll() is None, self.server.log
            assert not self.sampler.zombies

    @rule()
    def come_to_rest(self) -> None:
        """Everything is mended and everybody leaves: then the server is as it should be."""
        if self.broken:
            self.mend_the_handler_and_reload()
        elif self.unsure:
            self.reload()
        while self.clients:
            self.say_the_rest(0)
        self.let_them_go_on()
        what = f"{self.wanted} workers of version {self.version}"
        try:
            wait_for(self._at_rest, what, self.patience)
        except AssertionError as error:
            pytest.fail(f"{error}\n{self.seen}\n{self.server.log}")
        self.asked = self.unsure = False
        self.at_rest = True

    def _at_rest(self) -> bool:
        """As many workers as are wanted, each of which serves the last code, and nothing else is open."""
        workers = living(self.server.pid)
        descriptors = Measure(self.server.pid).descriptors
        self.seen = f"workers {workers}, {descriptors} descriptors, {self.others} of which are for something else"
        if len(workers) != self.wanted or descriptors > self.others + PER_WORKER * self.wanted:
            return False
        seen = Clients(self.server.address, seed=1000 + self.numbers, patience=PATIENCE)
        self.numbers += 1
        for _ in range(2 * self.wanted):
            seen.open("whole", 1)
        done = seen.finish(PATIENCE)
        seen.close()
        assert all(each.outcome == "ok" for each in done), [each.row() for each in done]
        self.seen = f"workers {workers}, answers {[each.row() for each in done]}"
        return all(each.versions == [str(self.version)] and set(each.pids) <= workers for each in done)

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        try:
            if self.server.process.poll() is None and sys.exc_info()[0] is None:
                self.come_to_rest()
                assert self.server.stop() == 0, self.server.log
                assert not in_session(self.server)
        finally:
            for client in self.clients:
                client.close()
            self.stack.close()


TestSupervisor = Machine.TestCase
TestSupervisor.settings = settings(
    max_examples=int(os.environ.get("MODEL_SEQUENCES", "4")),
    stateful_step_count=int(os.environ.get("MODEL_STEPS", "15")),
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a sequence that fails is told as it is: to make it shorter would take hours
    suppress_health_check=list(HealthCheck),
)


def test_the_model_sees_what_is_not_as_it_should_be() -> None:
    """Somebody asks for one worker more, and the model does not know of it; then the code is another."""
    machine = Machine()
    machine.patience = 2.0
    machine.start("epoll", 1)
    try:
        machine.come_to_rest()
        machine.server.send(signal.SIGTTIN)
        wait_for(lambda: len(living(machine.server.pid)) == 2, "another worker")
        with pytest.raises(pytest.fail.Exception, match="1 workers of version 0 did not come true"):
            machine.come_to_rest()
        machine.wanted = 2
        machine.come_to_rest()
        machine.version = 1
        with pytest.raises(pytest.fail.Exception, match="2 workers of version 1 did not come true"):
            machine.come_to_rest()
        machine.version = 0
    finally:
        machine.teardown()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(int(os.environ.get("MODEL_TIMEOUT", "300"))),
    pytest.mark.skipif(sys.platform != "linux", reason="the sampler reads Linux's /proc"),
]
