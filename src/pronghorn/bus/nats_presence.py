"""Presence: which other hosts are there. A host that is silent for three seconds is taken for gone.

Law: a host that is found again after it was taken for gone is asked to tell its names
again. When this process itself has not run for a while, nobody is taken for gone.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from pronghorn.bus.nats_mail import AGAIN, BEAT, GOODBYE, NOBODY, PROBE, STOOD_STILL, Mail

BEAT_EVERY, DOUBTED_AFTER, GONE_AFTER = 1.0, 1.4, 3.0  # seconds
MOST_GONE = 1000  # hosts that are remembered as gone


class Presence:
    """The other hosts that have been heard of, since when; `lose` is called with one that is gone."""

    def __init__(self, mail: Mail, lose: Callable[[str], None]) -> None:
        self._mail, self._lose = mail, lose
        self._heard: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._gone: dict[str, None] = {}
        self.absent: dict[str, None] = {}
        """Hosts of which the server has said that they are not there, and that have not been heard of since."""
        self._last = self._beaten = 0.0

    def meet(self, host: str) -> None:
        """Another host has said something, or was named by one that has it in a roster."""
        if host != self._mail.id:
            self._heard[host] = monotonic()
            self.absent.pop(host, None)

    def hear(self, data: bytes) -> None:
        """A host has said that it is there, or that it goes."""
        kind, host = data[:1], data[1:].decode("ascii", "replace")
        if kind == GOODBYE:
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
        self.drop(host)

    def drop(self, host: str) -> None:
        """A host is known to be gone."""
        if self._heard.pop(host, None) is not None:
            self._lose(host)

    def tick(self, now: float) -> None:
        if now - self._last > STOOD_STILL:
            self._heard = dict.fromkeys(self._heard, now)
        self._last = now
        if now - self._beaten >= BEAT_EVERY:
            self._beaten = now
            self._mail.send(self._mail.hosts, BEAT + self._mail.id.encode())
        for host, heard in list(self._heard.items()):
            if now - heard > GONE_AFTER:
                self._gone[host] = None
                self.drop(host)
            elif now - heard > DOUBTED_AFTER and now - self._asked.get(host, 0.0) > BEAT_EVERY:
                self._asked[host] = now
                self._mail.to_host(host, PROBE, lambda how, data, host=host: self._probed(host, how))  # type: ignore[misc]
        while len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]
        if len(self._asked) > len(self._heard):
            self._asked = {host: when for host, when in self._asked.items() if host in self._heard}

    def _probed(self, host: str, how: int) -> bool:
        if how == NOBODY:  # the server knows no such host: it has ended, and could not say so
            self.miss(host)
        return False

    def goodbye(self) -> None:
        """Say that this host goes."""
        self._mail.send(self._mail.hosts, GOODBYE + self._mail.id.encode())
