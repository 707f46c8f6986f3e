"""Whether the server takes new clients and goes on with it, and if not, why: for probes and load balancers.

Law: read from the supervisor's book-keeping alone, within microseconds; a probe comes every second from everywhere.
"""

from __future__ import annotations

from typing import Any

from pronghorn.supervisor.bus_side import broker_check
from pronghorn.supervisor.supervisor import DrainDelay, Supervisor
from pronghorn.system.descriptors import descriptors_for_connections


def health(supervisor: Supervisor) -> dict[str, Any]:
    """`ready`, and `why` not; the `checks` that this comes from, each with its name, whether it is passed, and words;
    what `lacks` all the same, in words, where the server is ready without it; and how many connections are `open` of
    the `most` that the server has room for (0: it does not say)."""
    fleet = supervisor.fleet
    ready, wanted = fleet.serving.ready, len(fleet.serving.slots)
    delay = supervisor.delay
    stays = not supervisor.draining and not delay.under_way
    if supervisor.leaving and not supervisor.draining:  # another program serves, with the same listeners
        return {"ready": True, "why": "", "checks": [], "lacks": "", "open": 0, "most": 0}
    checks = [
        ("start", fleet.served, "ok" if fleet.served else "the server starts, and no worker was ready yet"),
        ("workers", ready > 0, f"{ready} of {wanted} ready" if wanted else "there is no worker (as after ctl drain)"),
        ("stays", stays, "ok" if stays else _leaves(delay)),
    ]
    lacks, settings = "", fleet.serving.plan.settings
    if (broker := broker_check(supervisor.sides, settings)) is not None:
        there, words = broker
        lacks = "" if there or settings.bus_required else words
        checks.append(("bus", there or not settings.bus_required, words))
    why = next((words for _, good, words in checks if not good), "")
    board = fleet.serving.plan.board
    told = {"ready": not why, "why": why, "checks": checks, "lacks": lacks}
    return {**told, "open": board.totals()["open"], "most": most(supervisor)}


def _leaves(delay: DrainDelay) -> str:
    return f"the server is about to drain ({delay.why})" if delay.under_way else "the server stops"


def most(supervisor: Supervisor) -> int:
    """How many connections the server that serves may have open."""
    plan = supervisor.fleet.serving.plan
    each, _ = plan.model.capacity(plan.settings, descriptors_for_connections())
    whole, limit = each * len(supervisor.fleet.serving.slots), plan.settings.max_connections
    return whole if limit is None else min(whole, limit)
