"""The limit of descriptors (RLIMIT_NOFILE) of this process, which its forks inherit, and how many are free."""

from __future__ import annotations

import os
import resource

SAFE_HARD_LIMIT = 10240
SPARE = 16  # of those that are free when serving begins, for what is no connection: the loop's, the handler's

original: int | None = None
"""The soft limit that the server was started with; programs get it back, since select(2) fails beyond 1,024."""


def raise_descriptor_limit() -> tuple[int, int]:
    """Raise the soft limit of descriptors to the hard one; both as they were (getrlimit(2), RLIMIT_NOFILE).

    A system whose hard limit is infinite, and not meant so (macOS), gets 10,240.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, SAFE_HARD_LIMIT):
        if wanted != resource.RLIM_INFINITY and 0 <= soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
        except (OSError, ValueError):
            continue
    return soft, hard


def free_descriptors() -> int:
    """How many more descriptors this process may open (getrlimit(2), RLIMIT_NOFILE)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = os.sysconf("SC_OPEN_MAX")
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return max(0, soft - len(os.listdir(folder)) + 1)  # the listing is one itself
    return soft


def descriptors_for_connections() -> int:
    """How many of those that are free now a model may use for its connections: at least one."""
    return max(1, free_descriptors() - SPARE)
