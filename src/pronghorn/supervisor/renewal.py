"""What the supervisor takes anew while it serves, without a reload: certificates (`--tls-watch`), and the log file.

Law: it reads and opens no file itself; errands do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from pronghorn import events
from pronghorn.errors import PronghornError
from pronghorn.events import Observer
from pronghorn.supervisor.errand import Errand
from pronghorn.supervisor.poller import Poller
from pronghorn.system import log_file
from pronghorn.system.helper import Answer, Reaper

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates

LOOK = 1.0  # seconds between two looks at the files
PATIENCE = 10.0  # seconds that one may take


class Renewal:
    """Looks after the certificates that serve. `left` are descriptors that helpers must not keep."""

    def __init__(self, poller: Poller, observe: Observer, reaper: Reaper, left: Callable[[], Iterable[int]]) -> None:
        self._observe = observe
        self._errand = Errand(poller, reaper, left)
        self._reopening = Errand(poller, reaper, left)
        self._certificates: Certificates | None = None  # whose files it looks at
        self._next = 0.0
        self._late = False
        self._reopen = False

    def turn(self, now: float, certificates: Certificates | None, folder: str) -> None:
        """To be called in each turn, with those that serve now, and where their paths begin."""
        if certificates is not self._certificates:
            self._errand.close()
            self._certificates = certificates
        self._errand.turn(now)
        if certificates is not None and now >= self._next:
            self._next = now + LOOK
            if certificates.watched():
                self._look(certificates, folder)
            else:
                self._tell(certificates.expiring())

    def due(self) -> float:
        """The instant (monotonic) at which a helper is late."""
        return min(self._errand.due(), self._reopening.due())

    def close(self) -> None:
        """Ends the look under way."""
        self._errand.close()

    def _look(self, certificates: Certificates, folder: str) -> None:
        def look() -> Answer:
            if folder:
                os.chdir(folder)
            return msgspec.msgpack.encode(certificates.look()), []

        def seen(answer: Answer | PronghornError) -> None:
            from pronghorn.tls.certificates import News

            if not isinstance(answer, PronghornError):
                self._tell(certificates.take(msgspec.msgpack.decode(answer[0], type=News | None)))
            elif not self._late:
                why = " ".join(("The files cannot be looked at.", answer.what, answer.why)).strip()
                self._tell([events.CertificateRefused(why)])
            self._late = isinstance(answer, PronghornError)

        self._errand.begin(look, PATIENCE, seen)

    def _tell(self, told: Iterable[events.Event]) -> None:
        for event in told:
            self._observe(event)

    # The log file

    def reopen_log(self) -> None:
        """Goes on in a new file, if the old one has been renamed."""
        self._reopen = bool(log_file.current.path)

    def turn_log(self, now: float) -> None:
        """To be called in each turn, while the server drains too."""
        self._reopening.turn(now)
        if self._reopen and not self._reopening.busy:
            file = log_file.current

            def opened(answer: Answer | PronghornError) -> None:
                if isinstance(answer, PronghornError):
                    self._observe(events.LogNotReopened(file.path, answer.why or answer.what))
                else:
                    file.become(answer[1][0])

            self._reopen = not self._reopening.begin(lambda: (b"", [file.opened()]), PATIENCE, opened)
