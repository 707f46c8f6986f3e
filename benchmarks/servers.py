"""The servers of a comparison: Pronghorn's models, pure and compiled, and their competitors, each as a command.

Law: every server runs in a process of its own, on a free port of 127.0.0.1, and says so on standard error. What is
started here is ended here, by its process id. A competitor whose package or compiler is missing is left out, and named.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import baselines
import compiling
import libraries
from processes import process

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATIENCE = 15.0
COMPILED = Path(os.environ.get("PRONGHORN_COMPILED_VENV", ROOT / ".venv-compiled"))
MODELS = tuple("iterative fork prefork thread pool select poll epoll asyncio uvloop gevent".split())
IN_C = {"c-epoll": "epoll_server", "c-select": "select_server"}
PEERS = (*IN_C, *baselines.BARE, *libraries.SERVERS)
NEEDS = {"uvloop": "uvloop", "gevent": "gevent"}  # a model, and its package


class NotServing(Exception):
    """A server did not come up, or its load failed; the text says why."""


@dataclass(frozen=True)
class Contender:
    """One server: its name in the tables, the command that starts it on a free port, and its environment."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def pythonpath(self) -> str:
        """A compiled build is found where it is installed, the pure one in this tree."""
        return str(HERE) if self.name.startswith("compiled ") else f"{ROOT / 'src'}{os.pathsep}{HERE}"


def pronghorn(
    model: str,
    *settings: str,
    handler: str = "upper",
    name: str = "",
    build: str = "pronghorn",
    environment: Iterable[tuple[str, str]] = (),
) -> Contender:
    """A model of Pronghorn: `build` is "pronghorn" (this tree) or "compiled"."""
    python = sys.executable if build == "pronghorn" else str(COMPILED / "bin" / "python")
    command = (python, "-m", "pronghorn", "serve", handler, "--bind", "127.0.0.1:0", "--model", model, *settings)
    return Contender(name or f"{build} {model}", command, tuple(environment))


def peer(name: str, *words: str) -> Contender:
    """A competitor of baselines.py, libraries.py or this folder's C files."""
    if name in IN_C:
        return Contender(name, (compiling.programs()[IN_C[name]], *words))
    return Contender(name, (sys.executable, str(HERE / "baselines.py"), name, *words))


@cache
def missing(name: str) -> str:
    """Why a model or a competitor cannot run here; empty if it can."""
    if name in IN_C:
        return "" if compiling.programs() else "there is no C compiler"
    modules = libraries.MODULES.get(name, [NEEDS[name]] if name in NEEDS else [])
    gone = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(gone)} is not installed" if gone else ""


@cache
def compiled_version() -> str:
    """What the compiled build says of itself; empty where COMPILED is no virtual environment that has one."""
    python = COMPILED / "bin" / "python"
    if not python.exists():
        return ""
    done = subprocess.run([python, "-m", "pronghorn", "--version"], cwd=COMPILED, capture_output=True, text=True)
    if "(compiled" in done.stdout:
        return done.stdout.strip()
    print(f"{COMPILED} has no compiled build: {(done.stdout + done.stderr).strip()[-200:]}", file=sys.stderr)
    return ""


def has_compiled() -> bool:
    return bool(compiled_version())


@dataclass
class Server:
    """A contender that serves: its process, what it has said, and its address."""

    contender: Contender
    process: subprocess.Popen[str]
    log: IO[str]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def said(self) -> str:
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def state(self) -> str:
        status = self.process.poll()
        return "it still runs" if status is None else f"it has ended ({status}): {self.last_line()}"

    def last_line(self) -> str:
        return (self.said.strip() or "it said nothing").splitlines()[-1]

    def worker(self, number: int = 1) -> int:
        """The process id of a worker, once it is ready."""
        return int(self.await_words(rf"Worker {number} is ready, process id (\d+)"))

    def await_words(self, pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.said)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NotServing(f"{self.name} does not serve: {self.last_line()}")
            time.sleep(0.01)
        return match[1]


@contextmanager
def serving(contender: Contender) -> Iterator[Server]:
    """The contender, once it has said where it listens."""
    environment = os.environ | {"PYTHONPATH": contender.pythonpath} | dict(contender.environment)
    with (
        tempfile.TemporaryFile("w+") as log,
        process(list(contender.command), stdout=log, stderr=log, env=environment, cwd=HERE) as started,
    ):
        server = Server(contender, started, log, 0)
        server.port = int(server.await_words(r"Listening at: t(?:cp|ls)://127\.0\.0\.1:(\d+)"))
        yield server


@dataclass
class Field:
    """The servers that run, for as long as a comparison lasts: one for each command, whichever scenario asks first."""

    stack: ExitStack
    running: dict[Contender, Server] = field(default_factory=dict)

    def start(self, contenders: Iterable[Contender]) -> list[Server]:
        """Those that serve; who does not is named on standard error."""
        found = []
        for contender in contenders:
            server = self.running.get(contender)
            if server is None or server.process.poll() is not None:
                try:
                    server = self.running[contender] = self.stack.enter_context(serving(contender))
                except NotServing as error:
                    print(error, file=sys.stderr)
                    continue
            found.append(server)
        return found
