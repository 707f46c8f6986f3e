"""What is read or opened anew without a reload: certificates (`--tls-watch`), and the log file.

Law: it reads and opens no file itself; helpers do. While a helper cannot die (its file system hangs), no other is
started for the same purpose.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from pronghorn import events
from pronghorn.errors import PronghornError
from pronghorn.supervisor.fleet import Fleet
from pronghorn.supervisor.helper_task import HelperTask
from pronghorn.system import log_file
from pronghorn.system.helper import Answer, Helper

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates

LOOK = 1.0  # seconds between two looks at the files
PATIENCE = 10.0  # seconds that one may take


class Rereading:
    """Looks after the certificates that serve."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._look = HelperTask(fleet.poller)
        self._reopening = HelperTask(fleet.poller)
        self._certificates: list[Certificates] = []  # whose files it looks at
        self._next = 0.0
        self._late = False
        self._reopen = False

    def turn(self, now: float, certificates: list[Certificates], folder: str) -> None:
        """To be called in each turn, with those that serve now, and where their paths begin."""
        if [*map(id, certificates)] != [*map(id, self._certificates)]:
            self._look.close()
            self._certificates = certificates
        self._look.turn(now)
        if certificates and now >= self._next:
            self._next = now + LOOK
            if watched := [each for each in certificates if each.watched()]:
                self._look_at(watched, folder)
            unwatched = [each for each in certificates if not each.watched()]
            self._observe(event for each in unwatched for event in each.expiring())

    def due(self) -> float:
        """The instant (monotonic) at which a helper is late."""
        return min(self._look.due(), self._reopening.due())

    def close(self) -> None:
        """Ends the look under way."""
        self._look.close()

    def _look_at(self, certificates: list[Certificates], folder: str) -> None:
        def look() -> Answer:
            if folder:
                os.chdir(folder)
            return msgspec.msgpack.encode([each.look() for each in certificates]), []

        def seen(answer: Answer | PronghornError) -> None:
            from pronghorn.tls.certificates import News

            if not isinstance(answer, PronghornError):
                news = msgspec.msgpack.decode(answer[0], type=list[News | None])
                told = [event for each, one in zip(certificates, news, strict=True) for event in each.take(one)]
                self._observe(told)
            elif not self._late:
                why = " ".join(("The files cannot be looked at.", answer.what, answer.why)).strip()
                self._observe([events.CertificateRefused(why)])
            self._late = isinstance(answer, PronghornError)

        self._begin(self._look, look, seen)

    def _observe(self, found: Iterable[events.Event]) -> None:
        for event in dict.fromkeys(found):  # several listeners may have the same files
            self._fleet.observe(event)

    # The log file

    def reopen_log(self) -> None:
        """Goes on in a new file, if the old one has been renamed."""
        self._reopen = bool(log_file.current.path)

    def turn_log(self, now: float) -> None:
        """To be called in each turn, while the server drains too."""
        self._reopening.turn(now)
        if self._reopen:
            file = log_file.current

            def opened(answer: Answer | PronghornError) -> None:
                if isinstance(answer, PronghornError):
                    self._fleet.observe(events.LogNotReopened(file.path, answer.why or answer.what))
                else:
                    file.become(answer[1][0])

            self._reopen = not self._begin(self._reopening, lambda: (b"", [file.opened()]), opened)

    def _begin(
        self, task: HelperTask, work: Callable[[], Answer], then: Callable[[Answer | PronghornError], None]
    ) -> bool:
        """Starts a helper; `then` is called with its answer. False if none can be started now."""
        fleet = self._fleet
        helpers = fleet.workers.helpers
        if task.busy or task.last in helpers:
            return False
        try:
            task.begin(lambda: Helper(work, PATIENCE, helpers, fleet.kept()), lambda helper: then(answer_of(helper)))
        except OSError:
            return False
        return True


def answer_of(helper: Helper) -> Answer | PronghornError:
    try:
        return helper.answer() or PronghornError("The process that did it ended.")
    except PronghornError as error:
        return error
