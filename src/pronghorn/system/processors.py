"""How many processors this process may use: by its affinity (sched_getaffinity(2)) and the CPU quota of its cgroups.

Law: the kernel is asked each time; nothing here waits. A quota (cpu.max of cgroup v2, cpu.cfs_quota_us of v1) is that
of the cgroup of this process or of one above it, whichever is least; a part of a processor counts as a whole one, since
workers that share it are held up and workers that are missing leave it unused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import msgspec

PROC, CGROUPS = "/proc/self/cgroup", "/sys/fs/cgroup"


class Processors(msgspec.Struct, frozen=True):
    """`usable` processors, at least one; `why` says what makes it so many."""

    usable: int
    why: str


def processors(proc: str = PROC, root: str = CGROUPS) -> Processors:
    """The processors that this process may use now."""
    allowed, there = _allowed(), os.cpu_count() or 1
    least = min(quotas(proc, root), default=math.inf)
    if least < allowed:
        return Processors(max(1, math.ceil(least)), f"its cgroup may use {least:.3g} of {allowed} processors")
    if allowed < there:
        return Processors(allowed, f"its affinity is {allowed} of {there} processors")
    return Processors(there, f"there {'is 1 processor' if there == 1 else f'are {there} processors'}")


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quotas(proc: str = PROC, root: str = CGROUPS) -> Iterator[float]:
    """The quotas that hold for this process, in processors; none where there are no cgroups."""
    for line in _read(proc).splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        names = controllers.split(",")
        if path and (not controllers or "cpu" in names):
            for folder in _above(path):
                yield from (
                    _quota_v1(f"{root}/{controllers}{folder}", f"{root}/cpu{folder}")
                    if controllers
                    else (_quota_v2(f"{root}{folder}"))
                )


def _above(path: str) -> Iterator[str]:
    """A cgroup and those that it is in, up to the root: in a container this one is the container's."""
    while path.strip("/"):
        yield path
        path = os.path.dirname(path)
    yield ""


def _quota_v2(folder: str) -> Iterator[float]:
    quota, _, period = _read(f"{folder}/cpu.max").partition(" ")
    yield from _share(quota, period)


def _quota_v1(*folders: str) -> Iterator[float]:
    for folder in dict.fromkeys(folders):
        yield from _share(_read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us"))


def _share(quota: str, period: str) -> Iterator[float]:
    """`max`, -1 and what is no number are no quota."""
    try:
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except ValueError:
        return


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(65536)
    except (OSError, UnicodeDecodeError):
        return ""
