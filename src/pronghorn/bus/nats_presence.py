"""Presence: which other hosts are there. A host that is silent for three seconds is taken for gone.

Law: a host that is found again after it was taken for gone is asked to tell its names
again. When this process itself has not run for a while, nobody is taken for gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from pronghorn.bus.carrier import MAY_BE_BACK
from pronghorn.bus.nats_mail import AGAIN, BEAT, GOODBYE, NOBODY, PROBE, STOOD_STILL, Mail, beating_host_of

BEAT_EVERY, DOUBTED_AFTER, GONE_AFTER = 1.0, 1.4, 3.0  # seconds
MOST_GONE = 1000  # hosts that are remembered as gone


class Presence:
    """The other hosts that have been heard of, since when; `lose` is called with one that is gone."""

    def __init__(self, mail: Mail, joins: bool, lose: Callable[[str], None]) -> None:
        """A host that never `joins` anything is missed by nobody, and says nothing of itself."""
        self._mail, self._joins, self._lose = mail, joins, lose
        self._heard: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._gone: dict[str, None] = {}
        self.absent: dict[str, None] = {}
        """Hosts of which the server has said that they are not there, and that have not been heard of since."""
        self._lost: dict[str, float] = {}
        """Hosts that have gone without a word, and when that was noticed."""
        self._last = self._beaten = 0.0
        self._retired = False

    @property
    def hosts(self) -> list[str]:
        """The other hosts that are there, as far as is known."""
        return list(self._heard)

    def one_may_be_back(self) -> bool:
        """Whether a host has gone without a word, and so lately that it may be back."""
        since = monotonic() - MAY_BE_BACK
        self._lost = {host: noticed for host, noticed in self._lost.items() if noticed > since}
        return bool(self._lost)

    def meet(self, host: str) -> None:
        """Another host has said something, or was named by one that has it in a roster."""
        if host != self._mail.id:
            self._heard[host] = monotonic()
            self.absent.pop(host, None)
            self._lost.pop(host, None)

    def note(self, hosts: Iterable[str]) -> None:
        """These are there, as one of them says."""
        for host in hosts:
            if host not in self._heard:
                self.meet(host)

    def hear(self, data: bytes) -> None:
        """A host has said that it is there, or that it goes. Raises NotOurs."""
        kind, host = data[:1], beating_host_of(data)
        if kind == GOODBYE:
            self._lost.pop(host, None)
            self.drop(host)
        elif kind == BEAT and host != self._mail.id:
            if host in self._gone:
                del self._gone[host]
                self._mail.to_host(host, AGAIN)
            self.meet(host)

    def miss(self, host: str) -> None:
        """The server says that this host is not there."""
        self.absent[host] = None
        if len(self.absent) > MOST_GONE:
            del self.absent[next(iter(self.absent))]
        self._gone[host] = None
        if host in self._heard:
            self._lost[host] = monotonic()
        self.drop(host)

    def drop(self, host: str) -> None:
        """A host is known to be gone."""
        if self._heard.pop(host, None) is not None:
            self._lose(host)

    def tick(self, now: float) -> None:
        if now - self._last > STOOD_STILL:
            self._heard = dict.fromkeys(self._heard, now)
        self._last = now
        if self._joins and not self._retired and now - self._beaten >= BEAT_EVERY:
            self._beaten = now
            self._mail.send(self._mail.hosts, BEAT + self._mail.id.encode())
        for host, heard in list(self._heard.items()):
            if now - heard > GONE_AFTER:
                self._gone[host] = None
                self.drop(host)
            elif now - heard > DOUBTED_AFTER and now - self._asked.get(host, 0.0) > BEAT_EVERY:
                self._asked[host] = now
                self._mail.to_host(host, PROBE, lambda how, data, host=host: self.probed(host, how))  # type: ignore[misc]
        while len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]
        if len(self._asked) > len(self._heard):
            self._asked = {host: when for host, when in self._asked.items() if host in self._heard}

    def probed(self, host: str, how: int) -> bool:
        """What became of a probe."""
        if how == NOBODY:  # the server knows no such host: it has ended, and could not say so
            self.miss(host)
        return False

    def retire(self) -> None:
        """Say nothing of this host any more, which others miss from now on, and may be back."""
        self._retired = True

    def goodbye(self) -> None:
        """Say that this host goes."""
        self._mail.send(self._mail.hosts, GOODBYE + self._mail.id.encode())
