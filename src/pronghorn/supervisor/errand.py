"""One purpose of the supervisor's that takes a helper now and then, one at a time.

Law: as of system/helper.py. A helper that does not come back is killed, and while it cannot die (its file system hangs)
no other is started for the same purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pronghorn.errors import PronghornError
from pronghorn.supervisor.generation import NEVER
from pronghorn.supervisor.poller import Poller
from pronghorn.system.helper import Answer, Helper, Reaper

Then = Callable[[Answer | PronghornError], None]


class Errand:
    """At rest, or with a helper at work. `left` are descriptors that helpers must not keep."""

    def __init__(self, poller: Poller, reaper: Reaper, left: Callable[[], Iterable[int]]) -> None:
        self._poller = poller
        self._reaper = reaper
        self._left = left
        self._helper: Helper | None = None
        self._last = 0  # the last helper's process
        self._then: Then = lambda answer: None

    @property
    def busy(self) -> bool:
        """A helper is at work, or the last one still lives."""
        return self._helper is not None or self._last in self._reaper

    def begin(self, work: Callable[[], Answer], limit: float, then: Then) -> bool:
        """Starts a helper; `then` is called in a `turn` with what it says, or with what kept it from that. False if
        none can be started now."""
        if self.busy:
            return False
        try:
            self._helper = helper = Helper(work, limit, self._reaper, self._left())
        except OSError:
            return False
        self._then, self._last = then, helper.pid
        self._poller.add(helper, lambda: self._listen(helper))
        return True

    def turn(self, now: float) -> None:
        """To be called in each turn."""
        if self._helper is None or not self._helper.over(now):
            return
        helper, self._helper = self._helper, None
        self._poller.remove(helper)
        try:
            answer = helper.answer()
        except PronghornError as error:
            self._then(error)
        else:
            self._then(PronghornError("The process that did it ended.") if answer is None else answer)

    def due(self) -> float:
        """The instant (monotonic) at which the helper is late."""
        return self._helper.due() if self._helper is not None else NEVER

    def close(self) -> None:
        """Ends what is under way, without a word."""
        if self._helper is not None:
            helper, self._helper = self._helper, None
            self._poller.remove(helper)
            helper.close()

    def _listen(self, helper: Helper) -> None:
        if helper.listen():
            self._poller.remove(helper)  # its end stays readable
