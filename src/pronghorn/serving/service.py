"""Services in a worker: the handler, settings, certificates and limits of each, and which listener offers which.

Law: resolved once, before the worker is ready. What is made for a connection asks the offer of its listener, and a
message asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context
from typing import TYPE_CHECKING

from pronghorn import lifespans
from pronghorn.connection import own_context
from pronghorn.handlers.handler import Handler
from pronghorn.listening.listener import Listener
from pronghorn.scoreboard.connection_limits import Limits, Own
from pronghorn.scoreboard.counts import (
    BYTES_IN,
    BYTES_OUT,
    HANDLER_ERRORS,
    MESSAGES,
    OPEN,
    REFUSED,
    Counts,
    believed,
)
from pronghorn.scoreboard.row import Row
from pronghorn.settings import Settings

if TYPE_CHECKING:
    from pronghorn.tls.certificates import Certificates

LIMITS = tuple(
    "allow deny proxy_from max_connections max_connections_per_source accept_rate accept_rate_per_source".split()
)


class Service:
    """What is served at some listeners. `settings` are whole; `limits` are set by the admission."""

    __slots__ = ("certificates", "handler", "limits", "settings", "tls_at_once")
    limits: Limits

    def __init__(self, handler: Handler, settings: Settings, certificates: Certificates | None = None) -> None:
        self.handler = handler
        self.settings = settings
        self.certificates = certificates
        self.tls_at_once = certificates is not None and settings.tls_at_once
        """Connections speak TLS from the first byte."""


class Offer:
    """What a listener offers: its service, under its name. `number` is where the scoreboard counts for the listener,
    and `counts` what this worker counts there; None where nothing is to be told apart, nor is the name `told` then."""

    __slots__ = ("counts", "listener", "name", "number", "service", "told")

    def __init__(
        self, listener: Listener, name: str, service: Service, *, number: int = -1, counts: Counts | None = None
    ) -> None:
        self.listener = listener
        self.name = name
        self.service = service
        self.number = number
        self.counts = counts
        self.told = name if counts is not None else ""

    def take_child(self, counts: Counts) -> None:
        """A process that had one connection of this listener has ended, and has counted this."""
        if self.counts is not None:
            for word in (REFUSED, MESSAGES, BYTES_IN, BYTES_OUT, HANDLER_ERRORS):
                if value := believed(counts.words[word]):
                    self.counts.add(word, value)
            self.counts.add(OPEN, -1)

    def base(self) -> Context:
        """The context whose copies the listener's connections get: that of the caller."""
        base = own_context.base()
        base.run(lifespans.serving_at.set, self.name)
        return base


def set_limits(offers: Sequence[Offer], settings: Settings, row: Row, whole: Limits) -> None:
    """Give each service its limits: those of the whole server, where it has no others."""
    for service in {id(each.service): each.service for each in offers}.values():
        mine = [each for each in offers if each.service is service]
        if all(getattr(service.settings, each) == getattr(settings, each) for each in LIMITS):
            service.limits = whole
        else:
            own = Own(settings, mine[0].name, tuple(dict.fromkeys(each.number for each in mine)))
            service.limits = Limits(service.settings, row, whole.most, own)


def offers_of(listeners: Sequence[Listener], service: Service) -> list[Offer]:
    """One service at all listeners."""
    return [Offer(each, each.address, service) for each in listeners]
