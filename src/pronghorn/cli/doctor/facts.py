"""The facts of this machine that a server depends on: limits, sysctls, cgroups, packages, and the running server.

Law: facts only; what they mean is judged in advice.py. Whatever cannot be read is None, and nothing here raises.
"""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
import time
from collections.abc import Iterable
from ctypes import CDLL, create_string_buffer
from importlib.util import find_spec

import msgspec

from pronghorn import __version__
from pronghorn.builds import build
from pronghorn.control import client
from pronghorn.errors import PronghornError

EXTRAS = {
    "fast": "uvloop",
    "gevent": "gevent",
    "client": "prompt_toolkit",
    "reload": "watchfiles",
    "tls-dev": "trustme",
    "admin": "prometheus_client",
    "tui": "textual",
    "otel": "opentelemetry.sdk",
    "bench": "matplotlib",
}
"""Extras of the package, and a module of each."""
TIME_ERROR, STA_UNSYNC = 5, 0x40  # adjtimex(2)
UNLIMITED = 2**62


class Facts(msgspec.Struct, kw_only=True):
    """What there is to know; None where it cannot be known. Sizes in bytes, times in seconds."""

    system: str = ""
    backlog: int = 0
    soft_descriptors: int | None = None
    hard_descriptors: int | None = None
    somaxconn: int | None = None
    syn_backlog: int | None = None
    syncookies: int | None = None
    port_range: tuple[int, int] | None = None
    migrate_req: int | None = None
    abort_on_overflow: int | None = None
    fin_timeout: int | None = None
    file_max: int | None = None
    memory_limit: int | None = None
    memory_used: int | None = None
    pids_limit: int | None = None
    pids_used: int | None = None
    cpu_quota: float | None = None
    processors: int | None = None
    python: str = ""
    build: str = ""
    python_debug: bool = False
    free_threaded: bool = False
    extras: dict[str, bool] = {}
    clock_synchronised: bool | None = None
    clock_plausible: bool = True
    server: str = ""
    server_pid: int | None = None
    server_soft: int | None = None
    server_hard: int | None = None
    server_under_systemd: bool = False


def gathered(backlog: int, server: str | None) -> Facts:
    """The facts now. `server` is the control socket of a server that runs; None if there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    facts = Facts(
        system=sys.platform,
        backlog=backlog,
        soft_descriptors=_limit(soft),
        hard_descriptors=_limit(hard),
        somaxconn=_sysctl("net/core/somaxconn"),
        syn_backlog=_sysctl("net/ipv4/tcp_max_syn_backlog"),
        syncookies=_sysctl("net/ipv4/tcp_syncookies"),
        migrate_req=_sysctl("net/ipv4/tcp_migrate_req"),
        abort_on_overflow=_sysctl("net/ipv4/tcp_abort_on_overflow"),
        fin_timeout=_sysctl("net/ipv4/tcp_fin_timeout"),
        file_max=_sysctl("fs/file-max"),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        python=sys.version.split()[0],
        build=f"{__version__}, {build()}",
        python_debug=hasattr(sys, "gettotalrefcount"),
        free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        extras={name: _is_installed(module) for name, module in EXTRAS.items()},
        clock_synchronised=_is_synchronised(),
        clock_plausible=time.time() > 1_577_836_800,  # 2020
    )
    if (ports := _words("/proc/sys/net/ipv4/ip_local_port_range")) and len(ports) == 2:
        facts.port_range = ports[0], ports[1]
    _add_cgroup(facts)
    if server is not None:
        _add_server(facts, server)
    return facts


def _limit(value: int) -> int:
    return UNLIMITED if value == resource.RLIM_INFINITY else value


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def _words(path: str) -> list[int]:
    return [int(word) for word in _read(path).split() if word.lstrip("-").isdigit()]


def _sysctl(name: str) -> int | None:
    words = _words(f"/proc/sys/{name}")
    return words[0] if words else None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_synchronised() -> bool | None:
    """Whether the kernel's clock is kept by a time server (adjtimex(2)); reading it takes no privilege."""
    try:
        timex = create_string_buffer(512)  # struct timex, all zeros: modes 0 only reads; status is behind 4 longs
        state = CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    word = 8 * (5 if sys.maxsize > 2**32 else 0)  # modes, offset, freq, maxerror, esterror, then status
    if not word:
        return None if state == TIME_ERROR else True
    status = int.from_bytes(timex.raw[word : word + 4], sys.byteorder)
    return state != TIME_ERROR and not status & STA_UNSYNC


def _add_cgroup(facts: Facts) -> None:
    """The limits of this process's cgroups, version 2 or 1: the smallest on the way up counts."""
    memory = [*_up("memory.max"), *_words("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    facts.memory_limit = min((each for each in memory if each < UNLIMITED), default=None)
    facts.memory_used = next(
        iter([*_up("memory.current"), *_words("/sys/fs/cgroup/memory/memory.usage_in_bytes")]), None
    )
    facts.pids_limit = min([*_up("pids.max"), *_words("/sys/fs/cgroup/pids/pids.max")], default=None)
    facts.pids_used = next(iter([*_up("pids.current"), *_words("/sys/fs/cgroup/pids/pids.current")]), None)
    quotas = [each for each in _quotas() if each > 0]
    facts.cpu_quota = min(quotas, default=None)


def _folders() -> Iterable[str]:
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    parts = [part for part in own.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield "/".join(["/sys/fs/cgroup", *parts[:count]])


def _up(name: str) -> list[int]:
    return [each for folder in _folders() for each in _words(f"{folder}/{name}")[:1]]


def _quotas() -> Iterable[float]:
    for folder in _folders():
        words = _read(f"{folder}/cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            yield int(words[0]) / int(words[1])
    quota, period = _words("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), _words("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota and period and period[0] > 0:
        yield quota[0] / period[0]


def _add_server(facts: Facts, path: str) -> None:
    """What is known of the server that runs: its own limits, which another session's are not."""
    try:
        status = client.ask(path, {"command": "status"}, 2.0)
        facts.server, facts.server_pid = str(status["name"])[:100], int(status["pid"])
    except (PronghornError, KeyError, TypeError, ValueError):
        return
    for line in _read(f"/proc/{facts.server_pid}/limits").splitlines():
        if line.startswith("Max open files"):
            numbers = line.split()[3:5]
            limits = [UNLIMITED if each == "unlimited" else int(each) for each in numbers if each.isalnum()]
            if len(limits) == 2:
                facts.server_soft, facts.server_hard = limits
    facts.server_under_systemd = ".service" in _read(f"/proc/{facts.server_pid}/cgroup")
