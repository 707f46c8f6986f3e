"""An address in use: a start that waits for the workers of a killed supervisor, and who holds the address otherwise.

Law: those workers need a moment to notice that their supervisor is dead, and to let go; no other holder is waited for.
Only for a first start, where no client is served yet. `owners` and `why` are imported at a conflict only: workers are
forks of the supervisor, and have no use for them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

from pronghorn.errors import AddressInUse, PronghornError

PATIENCE = 5.0  # seconds, in which they have had a processor on a busy machine, too
PAUSE = 0.02
T = TypeVar("T")


def once_free(
    attempt: Callable[[], T],
    held_by_orphans: Callable[[str], bool],
    explain: Callable[[AddressInUse], AddressInUse] = lambda error: error,
) -> T:
    """What `attempt` returns. As long as it raises AddressInUse of an address that is `held_by_orphans`, it is called
    again, for PATIENCE seconds; the last error is raised as `explain` has it."""
    deadline, orphans = time.monotonic() + PATIENCE, False
    for number in itertools.count():
        try:
            return attempt()
        except AddressInUse as error:
            orphans = orphans or held_by_orphans(error.address)
            # One more try at least: orphans may have let go before it was asked who they were.
            if time.monotonic() >= deadline or not (orphans or number == 0):
                raise explain(error) from None
            time.sleep(PAUSE)
    raise AssertionError


def explained(error: AddressInUse) -> AddressInUse:
    """The same error, with what `pronghorn why` says of the address: who holds it, and what to do (why.py)."""
    from pronghorn.listening import why, why_words

    asked = why.Asked(error.reuse_address, error.reuse_port)
    try:
        found = why.examine(why.bind_of(error.address), asked)
    except (PronghornError, OSError):
        return error
    words = why_words.told(found, asked)
    if why.decisive(found).verdict is why.Verdict.FREE:
        sentences, hint = ["It was taken a moment ago, and is free now."], "Start again."
    else:
        sentences, hint = words.why, words.hint
    return AddressInUse(error.what, " ".join(sentences) or error.why, hint, error.address)


def held_by_orphans(address: str) -> bool:
    """Whether workers of a killed supervisor hold the address (owners.py)."""
    from pronghorn.listening import owners

    return owners.held_by_orphans(address)
