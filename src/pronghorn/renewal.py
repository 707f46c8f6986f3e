"""`--tls-watch`: a look at the certificates' files each second, by a helper.

Law: the supervisor reads no file while it serves. One helper is under way at most; one that does not come back is
killed, which is told once, and while it cannot die (its file system hangs) no other is started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from pronghorn import events
from pronghorn.errors import PronghornError
from pronghorn.events import Event, Observer
from pronghorn.helper import Helper, Reaper
from pronghorn.slots import NEVER
from pronghorn.watch import Watch

if TYPE_CHECKING:
    from pronghorn.certificates import Certificates

LOOK = 1.0  # seconds between two looks at the files
PATIENCE = 10.0  # seconds that one may take


class Renewal:
    """Looks after the certificates that serve. `left` are descriptors that helpers must not keep."""

    def __init__(self, watch: Watch, observe: Observer, reaper: Reaper, left: Callable[[], Iterable[int]]) -> None:
        self._watch = watch
        self._observe = observe
        self._reaper = reaper
        self._left = left
        self._helper: Helper | None = None
        self._certificates: Certificates | None = None  # whose files it looks at
        self._next = 0.0
        self._last = 0  # the last helper's process
        self._late = False

    def turn(self, now: float, certificates: Certificates | None, folder: str) -> None:
        """To be called in each turn, with those that serve now, and where their paths begin."""
        if self._helper is not None and certificates is not self._certificates:
            self.close()
        if self._helper is not None:
            if self._helper.over(now):
                self._end()
        elif certificates is not None and now >= self._next:
            self._next = now + LOOK
            if not certificates.watched():
                self._tell(certificates.expiring())
            elif self._last not in self._reaper:
                self._begin(certificates, folder)

    def due(self) -> float:
        """The instant (monotonic) at which a helper is late."""
        return self._helper.due() if self._helper is not None else NEVER

    def close(self) -> None:
        """Ends the look under way."""
        if self._helper is not None:
            helper, self._helper = self._helper, None
            self._watch.remove(helper)
            helper.close()

    def _begin(self, certificates: Certificates, folder: str) -> None:
        def look() -> tuple[bytes, list[int]]:
            if folder:
                os.chdir(folder)
            return msgspec.msgpack.encode(certificates.look()), []

        try:
            self._helper = helper = Helper(look, PATIENCE, self._reaper, self._left())
        except OSError:
            return  # at the next look
        self._certificates, self._last = certificates, helper.pid
        self._watch.add(helper, lambda: self._listen(helper))

    def _listen(self, helper: Helper) -> None:
        if helper.listen():
            self._watch.remove(helper)

    def _end(self) -> None:
        from pronghorn.certificates import News

        helper, certificates = self._helper, self._certificates
        assert helper is not None and certificates is not None
        self._helper = None
        self._watch.remove(helper)
        try:
            answer = helper.answer()
        except PronghornError as error:
            if not self._late:
                why = " ".join(("The files cannot be looked at.", error.what, error.why)).strip()
                self._tell([events.CertificateRefused(why)])
            self._late = True
            return
        self._late = False
        if answer is not None:
            self._tell(certificates.take(msgspec.msgpack.decode(answer[0], type=News | None)))

    def _tell(self, told: list[Event]) -> None:
        for event in told:
            self._observe(event)
