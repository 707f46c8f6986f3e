"""What is judged of the facts: for each thing whether it is well, and if not, how it is mended.

Law: pure functions of Facts, one for each thing; a thing of which nothing is known, or of which nothing needs to be
said, gives no line. A warning names one command or one line of configuration that mends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from pronghorn.cli.doctor.facts import UNLIMITED, Facts

State = Literal["ok", "warn"]
FEW_DESCRIPTORS = 4096  # for connections, logs, listeners: what a common distribution gives is 1024
SHORT_QUEUE = 1024  # clients: a burst of a busy second
FEW_PORTS = 16_384
FEW_PIDS = 256
NARROW = 0.9  # of a cgroup's limit


class Line(msgspec.Struct, frozen=True):
    """One thing: what was found, and how to mend it if it is not well."""

    name: str
    state: State
    found: str
    mend: str = ""


def advice(facts: Facts) -> list[Line]:
    """The lines for these facts, in the order of JUDGES."""
    return [line for judge in JUDGES for line in judge(facts)]


def descriptors(facts: Facts) -> Iterator[Line]:
    """The limit that a server would start with; it raises its own soft limit as far as the hard one goes."""
    if facts.hard_descriptors is None:
        return
    found = f"{_count(facts.hard_descriptors)} (hard limit; the server raises its soft limit of "
    found += f"{_count(facts.soft_descriptors or 0)} to it)"
    few = facts.hard_descriptors < FEW_DESCRIPTORS
    yield (
        Line("descriptors", "warn", found, "ulimit -Hn 65536 (as root), or in a unit: LimitNOFILE=65536")
        if few
        else Line("descriptors", "ok", found)
    )


def server_descriptors(facts: Facts) -> Iterator[Line]:
    """The limit of the server that runs, which its service manager has set."""
    if facts.server_soft is None:
        return
    found = f"{_count(facts.server_soft)} of the server {facts.server} (process {facts.server_pid})"
    if facts.server_soft >= FEW_DESCRIPTORS:
        yield Line("server's descriptors", "ok", found)
    elif facts.server_under_systemd:
        yield Line(
            "server's descriptors", "warn", found, "In its unit: LimitNOFILE=65536, then systemctl daemon-reload"
        )
    else:
        pid = facts.server_pid
        yield Line(
            "server's descriptors", "warn", found, f"prlimit --pid {pid} --nofile=65536, then pronghorn ctl reload"
        )


def backlog(facts: Facts) -> Iterator[Line]:
    """The kernel cuts --backlog to somaxconn (listen(2)); 0 asks for as much as there is."""
    if facts.somaxconn is None:
        return
    wanted = facts.backlog or SHORT_QUEUE
    found = f"somaxconn is {_count(facts.somaxconn)}"
    found += f", and --backlog asks for {_count(facts.backlog)}" if facts.backlog else ""
    cut = facts.somaxconn < wanted
    yield Line("accept queue", "warn" if cut else "ok", found, f"sysctl -w net.core.somaxconn={wanted}" if cut else "")


def syn_backlog(facts: Facts) -> Iterator[Line]:
    if facts.syn_backlog is None:
        return
    wanted = max(facts.backlog, SHORT_QUEUE)
    small = facts.syn_backlog < wanted and not facts.syncookies
    found = f"tcp_max_syn_backlog is {_count(facts.syn_backlog)}"
    found += ", with SYN cookies beyond that" if facts.syncookies else ", and SYN cookies are off"
    mend = f"sysctl -w net.ipv4.tcp_syncookies=1 net.ipv4.tcp_max_syn_backlog={wanted}" if small else ""
    yield Line("handshakes", "warn" if small else "ok", found, mend)


def overflow(facts: Facts) -> Iterator[Line]:
    """Overflow of the accept queue is a dropped handshake, which the client repeats; with this sysctl it is a reset."""
    if facts.abort_on_overflow:
        found = "tcp_abort_on_overflow is 1: clients of a full accept queue are reset instead of waiting"
        yield Line("overflow", "warn", found, "sysctl -w net.ipv4.tcp_abort_on_overflow=0")


def migration(facts: Facts) -> Iterator[Line]:
    """With SO_REUSEPORT a closed listener's queue is reset unless the kernel moves it (Linux 5.14)."""
    if facts.migrate_req == 0:
        found = (
            "tcp_migrate_req is 0: it matters with --reuse-port alone, where a listener that closes resets its queue"
        )
        yield Line("reuse-port", "ok", found)
    elif facts.migrate_req:
        yield Line("reuse-port", "ok", "tcp_migrate_req is 1: the queue of a listener that closes moves to another")


def ports(facts: Facts) -> Iterator[Line]:
    """Ports that outgoing connections take: of handlers, and of a listener's port that lies among them."""
    if facts.port_range is None:
        return
    first, last = facts.port_range
    found = f"{first} to {last} for outgoing connections"
    few = last - first + 1 < FEW_PORTS
    mend = 'sysctl -w net.ipv4.ip_local_port_range="15000 60999"' if few else ""
    yield Line("ports", "warn" if few else "ok", found, mend)


def fin_timeout(facts: Facts) -> Iterator[Line]:
    if facts.fin_timeout is not None and facts.fin_timeout > 120:
        found = f"tcp_fin_timeout is {facts.fin_timeout} s: half-closed connections stay long in the kernel"
        yield Line("half-closed", "warn", found, "sysctl -w net.ipv4.tcp_fin_timeout=60")


def memory(facts: Facts) -> Iterator[Line]:
    """A cgroup that is nearly full is one from which the kernel kills (OOM)."""
    if facts.memory_limit is None or facts.memory_used is None:
        return
    found = f"{_size(facts.memory_used)} of {_size(facts.memory_limit)} that this container may use"
    full = facts.memory_used > NARROW * facts.memory_limit
    yield Line("memory", "warn" if full else "ok", found, "Give it more, or set --max-worker-memory" if full else "")


def pids(facts: Facts) -> Iterator[Line]:
    """Threads count as well (cgroups(7), pids.max)."""
    if facts.pids_limit is None or facts.pids_limit >= UNLIMITED:
        return
    used = facts.pids_used or 0
    found = f"{_count(used)} of {_count(facts.pids_limit)} processes and threads that this container may have"
    few = facts.pids_limit - used < FEW_PIDS
    mend = "docker run --pids-limit 4096, or in a unit: TasksMax=4096; fork and thread take one for each connection"
    yield Line("processes", "warn" if few else "ok", found, mend if few else "")


def processors(facts: Facts) -> Iterator[Line]:
    if facts.cpu_quota is None or facts.processors is None or facts.cpu_quota >= facts.processors:
        return
    found = f"{facts.cpu_quota:g} of {facts.processors} that are there, by the container's quota"
    few = facts.cpu_quota < 1
    mend = "Give it one whole processor: below that the kernel stops the server for parts of each 100 ms" if few else ""
    yield Line("processors", "warn" if few else "ok", found, mend)


def python(facts: Facts) -> Iterator[Line]:
    if facts.python_debug:
        found = f"{facts.python}, a debug build, which is several times slower"
        yield Line("Python", "warn", found, "Install one that was built without --with-pydebug")
    else:
        kind = " (free-threaded)" if facts.free_threaded else ""
        yield Line("Python", "ok", f"{facts.python}{kind}")


def pronghorn(facts: Facts) -> Iterator[Line]:
    """Which build serves: the one is faster, the other's tracebacks tell more."""
    if facts.build:
        yield Line("Pronghorn", "ok", facts.build)


def extras(facts: Facts) -> Iterator[Line]:
    """None of them is needed; but a server that runs asyncio handlers is faster with uvloop."""
    if not facts.extras:
        return
    there = [name for name, installed in facts.extras.items() if installed]
    missing = [name for name, installed in facts.extras.items() if not installed]
    found = f"{', '.join(there) or 'none'} installed"
    found += f"; {', '.join(missing)} not (pip install 'pronghorn[{','.join(missing)}]')" if missing else ""
    yield Line("extras", "ok", found)


def clock(facts: Facts) -> Iterator[Line]:
    """Times in logs, and the dates of certificates, are judged by this clock."""
    if not facts.clock_plausible:
        yield Line(
            "clock",
            "warn",
            "The date is years behind: certificates will seem not valid yet",
            "timedatectl set-ntp true",
        )
    elif facts.clock_synchronised is False:
        found = "No time server keeps the clock: times in the log may be off, and certificates seem expired"
        yield Line("clock", "warn", found, "timedatectl set-ntp true (on the host, for a container)")
    elif facts.clock_synchronised:
        yield Line("clock", "ok", "kept by a time server")


def _count(number: int) -> str:
    return "unlimited" if number >= UNLIMITED else f"{number:,}"


def _size(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"


JUDGES: tuple[Callable[[Facts], Iterator[Line]], ...] = (
    descriptors,
    server_descriptors,
    backlog,
    syn_backlog,
    overflow,
    migration,
    ports,
    fin_timeout,
    memory,
    pids,
    processors,
    python,
    pronghorn,
    extras,
    clock,
)
