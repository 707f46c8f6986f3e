"""Where a worker counts what is read as metrics: the server's details, where they are wanted, and the handler's own.

Law: called once, before the worker lets go of the scoreboard's file. What is mapped costs address space and nothing
else until something is counted there.
"""

from __future__ import annotations

import os
import sys

from pronghorn import identity
from pronghorn.scoreboard import details
from pronghorn.scoreboard.details import Details, Shared
from pronghorn.scoreboard.row import Row
from pronghorn.worker_process.plan import Plan

_lasting: list[memoryview[int]] = []


def keep_details(plan: Plan, row: Row) -> None:
    """Have this process, a worker, count in the region of its row; and its children too, under a model that has any.
    Without memory for that it counts nothing there."""
    fd = row.map.fileno()
    try:
        words, copy = details.region(fd, row.index)
    except (OSError, ValueError):
        return
    _lasting.append(words)  # the map is closed by nobody: it would close `copy`, which may be another file by then
    if copy >= 0:
        os.close(copy)
    lock = details.lock_of(fd, row.index) if plan.model.in_children else None
    if plan.settings.wants_metrics:
        row.details = Shared(words, lock) if lock is not None else Details(words)

    def store() -> object:
        from pronghorn.scoreboard.own_metrics import OwnStore  # here: only what is used

        row.own_metrics = OwnStore(words, lock)
        if lock is None:
            os.register_at_fork(after_in_child=sys.modules["pronghorn.metrics"].detach)
        return row.own_metrics

    identity.metrics_store = store
    if (own := sys.modules.get("pronghorn.metrics")) is not None:  # with --preload
        own.attach(store())
