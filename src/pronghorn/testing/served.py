"""A real server for the length of a `with` block, in processes of its own.

Law: the server is what users run: a fresh interpreter, `python -P -m pronghorn.server`, in a process group of its own.
The server has the caller's working folder and path, so that it can import what the caller can. However the block ends,
no process is left.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import msgspec
import psutil

from pronghorn.server_process import LATE, end, ready_report, started, whole
from pronghorn.settings import Settings, settle
from pronghorn.settings.layers import Layers
from pronghorn.settings.sockets import UNASKED
from pronghorn.settings.source import Source
from pronghorn.testing.talk import PATIENCE

if TYPE_CHECKING:
    from typing import Unpack

    from pronghorn.server import Servable
    from pronghorn.settings.keywords import Keywords

    Startable = Servable | Sequence[str] | Source
    """A handler, its name, or a program and its arguments."""

DRAIN_QUIET = 0.1  # seconds

Address = tuple[str, int] | str
"""(host, port), or the path of a unix socket."""


class Served:
    """A running server: its addresses, its processes, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], listening: list[str], model: str, settings: Settings) -> None:
        self._process = process
        self._log: IO[bytes] | None = None
        self._said = ""
        self.listening = listening
        """The addresses as `--bind` takes them."""
        self.model = model
        """The model that serves; never `auto`."""
        self.settings = settings

    @property
    def addresses(self) -> list[Address]:
        """Where it listens, in the order of `bind`: (host, port), or the path of a unix socket."""
        return [_address(each) for each in self.listening]

    @property
    def address(self) -> Address:
        """The first of the addresses."""
        return self.addresses[0]

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the supervisor has not ended yet."""
        return self._process.poll() is None

    def worker_pids(self) -> list[int]:
        """The supervisor's children: its workers, and processes that it adopted."""
        try:
            return sorted(child.pid for child in psutil.Process(self.pid).children())
        except psutil.NoSuchProcess:
            return []

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all below it; dead ones that nobody has reaped too."""
        try:
            supervisor = psutil.Process(self.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> int:
        """Bytes that the server's processes hold for themselves alone; pages that they share are not counted."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().uss
        return total

    def is_at_rest(self) -> bool:
        """Whether every thread of its processes sleeps: the server has nothing to do, or cannot go on (Linux; elsewhere
        only main threads count)."""
        return all(_sleeps(process) for process in self.processes())

    def connect(self, index: int = 0, *, timeout: float = PATIENCE, receive_buffer: int = 0) -> socket.socket:
        """A new connection to the address of this index, with a timeout in seconds for all that it does.

        `receive_buffer`, in bytes, keeps the kernel from taking much for a client that does not read. Raises OSError.
        """
        address = self.addresses[index]
        family = socket.AF_UNIX
        if not isinstance(address, str):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.connect(address)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def log(self) -> str:
        """What the server, and the handler, have written to standard output and error so far."""
        return self._said if self._log is None else whole(self._log)

    def send_signal(self, number: int) -> None:
        """Send a signal to the supervisor, if it has not ended."""
        if self.running:
            self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the supervisor's end; its exit status, or minus the signal that killed it.

        Raises TimeoutError after `timeout` seconds; the server then goes on.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the server did not end within {timeout:g} s") from None

    def stop(self, number: int = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Send a signal to the supervisor and wait for its end, as `wait` does. TERM drains, QUIT ends at once."""
        self.send_signal(number)
        return self.wait(timeout)


@contextlib.contextmanager
def serving(handler: Startable = "upper", **settings: Unpack[Keywords]) -> Iterator[Served]:
    """Start a server, yield it once it serves, and end it at once, whatever happens in the block.

    `handler` is a name as the command takes it (`upper`, `module:name`, `path/file.py:name`), a tuple or list of
    strings for a program and its arguments, or the handler itself: a function or class at the top level of its
    file, for the server imports it in a process of its own. `settings` are those of the command; unless given `bind`
    is 127.0.0.1:0, and `drain_quiet` 0.1 s, so that an end is not waited for.

    Raises PronghornError with what kept the server from serving, `exit_code` included; BadSetting, ValueError for a
    handler that cannot be named. With `listeners` nothing else is bound unless `bind` is given.
    """
    source = source_of(handler)
    given: dict[str, Any] = {"drain_quiet": DRAIN_QUIET, **settings}
    if "listeners" in settings:
        given["listeners"] = [_named(each) for each in settings["listeners"]]
    else:
        given = {"bind": "127.0.0.1:0", **given}
    checked = settle(given)
    mark = secrets.token_hex()
    with tempfile.TemporaryFile("ab+") as log:
        process, report = started(_layers(source, checked), log, mark)
        family: list[psutil.Process] = []
        try:
            with open(report, "rb", buffering=0) as reports:
                ready = ready_report(process, reports, checked.start_timeout + LATE, log)
            served = Served(process, ready["listening"], ready["model"], checked)
            served._log = log
            try:
                yield served
            finally:
                family = served.processes()
                end(process, family, mark)
                served._said, served._log = whole(log), None
        finally:
            end(process, family, mark)


def source_of(handler: object) -> Source:
    """What to call a handler in another process. Raises ValueError for one that cannot be found there again."""
    if isinstance(handler, Source):
        return handler
    if isinstance(handler, str):
        return Source(name=handler)
    if isinstance(handler, Sequence):
        return Source(command=tuple(handler))
    name = getattr(handler, "__qualname__", "")
    module = sys.modules.get(getattr(handler, "__module__", ""))
    path = getattr(module, "__file__", None)
    why = ""
    if not name or path is None:
        why = "it is no function or class of a module"
    elif "<" in name:
        why = "it is a lambda" if name.endswith("<lambda>") else "it is defined inside a function"
    elif _found(module, name) is not handler:
        why = f"its module has something else under the name {name!r}"
    if why or module is None:
        hint = "Give a function or class at the top level of a file, or its name, as in 'module:name'."
        raise ValueError(f"The server cannot import {handler!r} in a process of its own: {why}. {hint}")
    if "." in module.__name__:
        return Source(name=f"{module.__name__}:{name}")  # in a package, whose imports may be relative
    return Source(name=f"{os.path.abspath(str(path))}:{name}")


def _named(listener: Mapping[str, Any]) -> dict[str, Any]:
    """A listener whose handler is given by its name."""
    handler = listener.get("handler")
    if handler is None or isinstance(handler, str):
        return dict(listener)
    return {**listener, "handler": source_of(handler).name}


def _found(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def _sleeps(process: psutil.Process) -> bool:
    try:
        for stat in glob.glob(f"/proc/{process.pid}/task/*/stat"):
            with open(stat) as file:
                if file.read().rpartition(")")[2].split()[0] in "RDTt":  # proc(5)
                    return False
        return process.status() not in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP, psutil.STATUS_STOPPED)
    except (OSError, psutil.Error):
        return False  # a process or thread has just ended, which may wake others


def _layers(source: Source, settings: Settings) -> Layers:
    given = msgspec.structs.asdict(settings)
    if settings.bind is UNASKED:
        del given["bind"]
    return Layers(given=given, source=source)


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        return text.removeprefix("unix:")
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
