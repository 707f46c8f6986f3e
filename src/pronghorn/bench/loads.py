"""Load processes as the one that starts them has them: their jobs, their runs, and their results added up.

Law: a load process is in a process group of its own and is ended by its id, however the block ends.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pronghorn.bench.latencies import Latencies
from pronghorn.bench.sockets import Address
from pronghorn.boot import module_command
from pronghorn.errors import PronghornError, printable

PATIENCE = 15.0  # seconds beyond what a run takes
FULL = 0.9  # of a processor: a load process that uses so much may have been the limit


class Job(msgspec.Struct, frozen=True):
    """What all clients together do: see `Load` in load.py for what each word means."""

    address: Address
    talk: dict[str, Any]
    clients: int = 64
    depth: int = 1
    connect: bool = False
    rate: float = 0.0
    timeout: float = 10.0
    sources: int = 0


class LoadFailed(PronghornError):
    """A load process could not do its job: its script raised, or the process has ended."""


class ScriptFailed(LoadFailed):
    """A script raised while it was asked what to send, or cannot be used at all."""

    exit_code = 2


class Outcome(msgspec.Struct):
    """One run of all load processes. `in_time` messages were answered within `seconds`, `messages` in all; `latencies`
    are of all messages; `errors` are counts with an example, by kind. The busiest load process ran, or waited for a
    processor, for a part `busy` of its time; `cpu` is the seconds that all used. The other fields are as `Load.run`
    tells them."""

    messages: int = 0
    in_time: int = 0
    seconds: float = 0.0
    latencies: Latencies = msgspec.field(default_factory=Latencies)
    late: Latencies = msgspec.field(default_factory=Latencies)
    errors: dict[str, tuple[int, str]] = {}
    unserved: int = 0
    unanswered: int = 0
    behind: float = 0.0
    cpu: float = 0.0
    busy: float = 0.0

    @property
    def throughput(self) -> float:
        """Messages a second."""
        return self.in_time / self.seconds if self.seconds else 0.0

    def add(self, told: dict[str, Any]) -> None:
        """What one load process told of the same run."""
        self.latencies.add(Latencies(told["latencies"]["counts"], told["latencies"]["greatest"]))
        self.late.add(Latencies(told["late"]["counts"], told["late"]["greatest"]))
        self.note(told["errors"])
        for name in ("messages", "in_time", "unserved", "unanswered", "cpu"):
            setattr(self, name, getattr(self, name) + told[name])
        self.seconds = max(self.seconds, told["seconds"])
        self.behind = max(self.behind, told["behind"])
        self.busy = max(self.busy, (told["cpu"] + told["waited"]) / told["wall"] if told["wall"] else 0.0)

    def note(self, errors: dict[str, Any]) -> None:
        for kind, (count, example) in errors.items():
            before, first = self.errors.get(kind, (0, example))
            self.errors[kind] = (before + count, first)


class Loads:
    """Load processes that share one job and have opened its connections; `opened` of them are, with what `errors`."""

    def __init__(self, processes: list[_Process]) -> None:
        self._processes = processes
        told = self._answers(PATIENCE, lambda messages: None)
        self.opened = sum(each["open"] for each in told)
        first = Outcome()
        for each in told:
            first.note(each["errors"])
        self.errors = first.errors

    @property
    def count(self) -> int:
        return len(self._processes)

    def run(self, seconds: float, progress: Callable[[int], None] = lambda messages: None) -> Outcome:
        """The load for so many seconds; `progress` is called with the number of replies so far. Raises LoadFailed."""
        return self._run({"run": seconds}, progress)

    def first(self, patience: float) -> Outcome:
        """What each client may send at once, and its replies, for which nobody waits longer than `patience` seconds.
        Raises LoadFailed."""
        return self._run({"run": 0.0, "patience": patience}, lambda messages: None)

    def _run(self, order: dict[str, float], progress: Callable[[int], None]) -> Outcome:
        for each in self._processes:
            each.write(order)
        outcome = Outcome()
        for told in self._answers(order["run"] + PATIENCE, progress):
            outcome.add(told)
        return outcome

    def _answers(self, seconds: float, progress: Callable[[int], None]) -> list[dict[str, Any]]:
        """The next line of each process that is no progress."""
        until, found = time.monotonic() + seconds, dict[int, dict[str, Any]]()
        so_far = dict[int, int]()
        with selectors.DefaultSelector() as selector:
            for each in self._processes:
                selector.register(each.output, selectors.EVENT_READ, each)
            while len(found) < len(self._processes):
                ready = selector.select(max(0.0, until - time.monotonic()))
                if not ready:
                    raise LoadFailed("A load process does not answer.", f"It said nothing for {seconds:g} s.")
                for key, _ in ready:
                    for told in key.data.lines():
                        if "progress" in told:
                            until = max(until, time.monotonic() + PATIENCE)
                            so_far[key.fd] = told["progress"]
                            progress(sum(so_far.values()))
                        else:
                            found[key.fd] = told
                            selector.unregister(key.fileobj)
        return list(found.values())


class _Process:
    """One load process, and its lines."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._said = tempfile.TemporaryFile()
        path = os.pathsep.join(each for each in sys.path if each)
        self.process = subprocess.Popen(
            module_command("pronghorn.bench.load"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        self._rest = b""
        self._script = job["talk"].get("path", "")
        self.write(job)

    def write(self, record: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(record).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is found where its answer is read

    def lines(self) -> list[dict[str, Any]]:
        """The records that have come. Raises LoadFailed for an error, or the end of the process."""
        data = os.read(self.output, 1 << 20)
        *whole, self._rest = (self._rest + data).split(b"\n")
        found: list[dict[str, Any]] = [json.loads(line) for line in whole]
        for told in found:
            if "error" in told:
                raise ScriptFailed(f"--script {self._script} failed.", f"{told['error']}.")
        if not data:
            self._said.seek(0)
            said = self._said.read().decode(errors="backslashreplace").strip().splitlines()
            raise LoadFailed("A load process has ended.", printable(said[-1]) if said else "It said nothing.")
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._said):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass


@contextmanager
def loads(job: Job, count: int = 1) -> Iterator[Loads]:
    """`count` load processes, not more than there are clients, that have opened the connections of the job. Raises
    LoadFailed, and PronghornError's others as they come."""
    processes: list[_Process] = []
    count = max(1, min(count, job.clients))
    try:
        first = 0
        for number in range(count):
            clients = job.clients * (number + 1) // count - first
            share = {
                **msgspec.structs.asdict(job),
                "clients": clients,
                "first": first,
                "rate": job.rate / count,
                "phase": number / count,
            }
            processes.append(_Process(share))
            first += clients
        yield Loads(processes)
    finally:
        for each in processes:
            each.end()
