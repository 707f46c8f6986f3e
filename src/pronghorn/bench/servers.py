"""What `pronghorn bench` measures: a model of a handler, another server's command, or a server that runs already.

Law: whatever is started here is in a process group of its own, and ended by its id when its block ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import msgspec

from pronghorn.bench import tree
from pronghorn.bench.sockets import Address, place_of_address
from pronghorn.errors import BadSetting, PronghornError, printable
from pronghorn.listening import owners, sock_diag
from pronghorn.server_process import LATE, end, ready_report, started, whole
from pronghorn.settings.layers import Layers
from pronghorn.system.processors import processors

PATIENCE = 15.0  # seconds for a server to listen, and again to end
KNOCK = 0.02
QUIET: dict[str, Any] = {"control_socket": "off", "pid_file": "", "log_file": "", "admin": (), "bind": ("127.0.0.1:0",)}
"""Settings that several servers beside each other need; those but `bind` that were given stay."""


class NotServing(PronghornError):
    """A server of `--against` did not come up."""


class Contender(msgspec.Struct, frozen=True):
    """A server under its name in the tables: by `layers` a model of the handler, by `command` another server, by
    `address` one that runs."""

    name: str
    layers: Layers | None = None
    command: tuple[str, ...] = ()
    address: Address | None = None
    workers: int = 1


class Running(msgspec.Struct):
    """A contender that serves. `roots` are the process ids whose trees are its cost; none: `unknown` says why."""

    contender: Contender
    address: Address
    roots: list[int]
    unknown: str = ""
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None
    idle: int = 0
    """Bytes of memory before there were connections."""

    def spent(self) -> float:
        """Seconds of processor time."""
        return sum(map(tree.spent, self.roots))

    def settled(self) -> float:
        """The same, once its processes are at rest."""
        return sum(map(tree.settled, self.roots))

    def waited(self) -> float:
        """Seconds that its threads waited for a processor."""
        return sum(map(tree.waited, self.roots))

    def held(self) -> int:
        """Bytes of memory."""
        return sum(map(tree.held, self.roots))

    def ended(self) -> str:
        """How it has ended, and the last that it said; empty while it runs."""
        if self.process is None or self.process.poll() is None:
            return ""
        said = whole(self.log).strip().splitlines() if self.log else []
        how = f"status {self.process.returncode}"
        if self.process.returncode < 0:
            how = signal.Signals(-self.process.returncode).name
        return f"the server ended ({how})" + (f": {printable(said[-1].strip(), 200, kept='')}" if said else "")


def of_model(name: str, layers: Layers, workers: int | None) -> Contender:
    """The handler and the settings of `layers` under a model; without a number of workers as many as serve would have.
    Raises BadSetting."""
    given = {**QUIET, **{key: value for key, value in layers.given.items() if key != "bind"}, "model": name}
    if workers is not None:
        given["workers"] = workers
    layers = msgspec.structs.replace(layers, given=given)
    count = layers.settle().settings.effective_workers(name, processors().usable)
    return Contender(name, layers=layers, workers=count)


def of_command(text: str) -> Contender:
    """What `--against` names: `NAME=COMMAND`, or a command. Raises BadSetting."""
    match = re.match(r"([A-Za-z][\w.+-]*)=(.*)", text, re.DOTALL)
    try:
        words = shlex.split(match[2] if match else text)
    except ValueError as error:
        raise BadSetting(f"--against cannot be {text!r}.", f"It is no command line: {error}.") from None
    if not words:
        raise BadSetting(f"--against cannot be {text!r}.", "It names no program.", "For example: --against 'redis=…'")
    script = next((each for each in words[1:] if each.endswith(".py")), words[0])
    return Contender(match[1] if match else os.path.basename(script), command=tuple(words))


@contextmanager
def running(contender: Contender) -> Iterator[Running]:
    """The contender, once it serves. Raises PronghornError with what kept it from that."""
    if contender.layers is not None:
        with _served(contender, contender.layers) as found:
            yield found
    elif contender.command:
        with _commanded(contender) as found:
            yield found
    else:
        assert contender.address is not None
        yield _there(contender, contender.address)


@contextmanager
def _served(contender: Contender, layers: Layers) -> Iterator[Running]:
    settings = layers.settle().settings
    mark = secrets.token_hex()
    with tempfile.TemporaryFile("ab+") as log:
        process, report = started(layers, log, mark)
        try:
            with open(report, "rb", buffering=0) as reports:
                ready = ready_report(process, reports, settings.start_timeout + LATE, log)
            host, _, port = ready["listening"][0].rpartition(":")
            yield Running(contender, (host.strip("[]"), int(port)), [process.pid], process=process, log=log)
        finally:
            end(process, [], mark)


@contextmanager
def _commanded(contender: Contender) -> Iterator[Running]:
    """Another server: it is told a free port, by `{port}` in its command and by the variable PORT."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [each.replace("{port}", str(port)) for each in contender.command]
    with tempfile.TemporaryFile("ab+") as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PORT": str(port)},
                process_group=0,
            )
        except OSError as error:
            raise NotServing(f"{contender.name} cannot be started.", f"{command[0]}: {error.strerror}.") from None
        found = Running(contender, ("127.0.0.1", port), [process.pid], process=process, log=log)
        try:
            _knock(found, port)
            yield found
        finally:
            _end_group(process)


def _knock(found: Running, port: int) -> None:
    """Waits until somebody listens at the port. Raises NotServing."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if ended := found.ended():
            raise NotServing(f"{found.contender.name} does not serve.", f"{ended[:1].upper()}{ended[1:]}.")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(KNOCK)
    raise NotServing(
        f"{found.contender.name} does not serve.",
        f"Nobody listens at 127.0.0.1:{port} after {PATIENCE:g} s.",
        "The command gets its port in place of {port}, and in the variable PORT.",
    )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """TERM, and after a while KILL, for a process; then what is left of its group and of its tree."""
    family = tree.family(process.pid)
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE / 3)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)


def _there(contender: Contender, address: Address) -> Running:
    """A server that runs already: whoever listens there, if that is on this machine and can be seen."""
    roots, unknown = [], ""
    if isinstance(address, str):
        place: tuple[int, Any] = (socket.AF_UNIX, place_of_address(address))
    else:
        place = (socket.AF_INET6 if ":" in address[0] else socket.AF_INET, address)
    if not isinstance(address, str) and not _is_local(place):
        unknown = "it runs on another machine"
    else:
        try:
            pids = owners.holders(owners.in_the_way(place, sock_diag.LISTENING)).pids
        except OSError:
            pids = []
        below = {each for pid in pids for each in tree.family(pid)[1:]}
        roots = [pid for pid in pids if pid not in below]
        if not roots:
            unknown = "its processes cannot be seen: they are another user's, or in a container"
    return Running(contender, address, roots, unknown)


def _is_local(place: tuple[int, Any]) -> bool:
    """Whether the host of that place is one of this machine's addresses: only those can be bound."""
    with socket.socket(place[0], socket.SOCK_STREAM) as trial:
        try:
            trial.bind((place[1][0], 0))
        except OSError:
            return False
        return True
