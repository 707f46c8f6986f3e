"""A start after a kill: the workers of a supervisor that was killed need a moment to notice and to let go.

Law: it waits for those, and for nobody else; an ordinary conflict is told at once. Only for a first start, where nobody
is served yet.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

from pronghorn.errors import AddressInUse

PATIENCE = 2.0
PAUSE = 0.02
T = TypeVar("T")


def once_free(attempt: Callable[[], T], held_by_orphans: Callable[[str], bool]) -> T:
    """What `attempt` returns. When it raises AddressInUse and `held_by_orphans` says so of that address, it is made
    again for two seconds."""
    deadline, orphans = time.monotonic() + PATIENCE, False
    for number in itertools.count():
        try:
            return attempt()
        except AddressInUse as error:
            orphans = orphans or held_by_orphans(error.address)
            # One more try at least: they may have let go before anybody could look who they were.
            if time.monotonic() >= deadline or not (orphans or number == 0):
                raise
            time.sleep(PAUSE)
    raise AssertionError


def explained(error: AddressInUse) -> AddressInUse:
    """The error with the name of whoever holds the address."""
    from pronghorn.listening import owners

    holder = owners.explain(error.address)
    why = f"{holder[:1].upper()}{holder[1:]}." if holder else error.why
    if holder.startswith(owners.NOBODY):
        why += " If that server ran without SO_REUSEADDR, it holds up even those who have it."
    return AddressInUse(error.what, why, error.hint, error.address)


def held_by_orphans(address: str) -> bool:
    from pronghorn.listening import owners

    return owners.held_by_orphans(address)
