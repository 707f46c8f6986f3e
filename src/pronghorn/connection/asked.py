"""Whether somebody on the bus waits for what a connection answers: it is not ended in order meanwhile.

Law: costs a look into a dictionary where nobody has joined anything.
"""

from __future__ import annotations

from pronghorn.bus.joined import JOINED


def awaits_answer(number: int) -> bool:
    """Whether a question is open that the connection of this number was asked on the bus. One whose asker is gone, or
    whose time is over, is not."""
    if number not in JOINED:
        return False
    from pronghorn.bus import local  # here: only where it is used

    return local.asks(number)
