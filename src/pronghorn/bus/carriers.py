"""The carrier for a URL: what brings the bus from host to host, chosen by the scheme.

Law: a carrier's package is imported here, when its URL is used, and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec

from pronghorn.bus.carrier import Away, Carrier, Host
from pronghorn.bus.errors import BadBusMessage
from pronghorn.settings.broker_url import EXTRAS, REDIS, SCHEMES


def is_broker(url: str) -> bool:
    """Whether this is the URL of a broker."""
    scheme, mark, _ = url.partition("://")
    return bool(mark) and scheme in SCHEMES


def carrier_of(url: str, host: Host) -> Carrier:
    """The carrier that this URL names, for this host; nothing is connected yet. Raises as `carrier_for` does."""
    return carrier_for(url)(host)


def carrier_for(url: str) -> Callable[[Host], Carrier]:
    """What makes the carrier that this URL names; its package has been imported then.

    Raises BadBusMessage for a URL that names none, and where its package is not installed. No message holds what
    stands in the URL, since that may be a password."""
    if not is_broker(url):
        raise BadBusMessage("No carrier has this URL.", hint=f"It begins with one of {', '.join(SCHEMES)}, and ://.")
    which = SCHEMES[url.partition("://")[0]]
    if find_spec(EXTRAS[which]) is None:
        hint = f"pip install 'pronghorn[{EXTRAS[which]}]'"
        raise BadBusMessage(f"The package of {which} is not installed.", hint=hint)
    if which == REDIS:
        from pronghorn.bus.redis_carrier import RedisCarrier

        return partial(RedisCarrier, url)
    from pronghorn.bus.nats_carrier import NatsCarrier
    from pronghorn.bus.nats_url import place_of

    return partial(NatsCarrier, place_of(url))


def carrier_in_any_case(url: str, host: Host) -> Carrier:
    """The same; for a URL that is wrong a carrier whose broker is away for ever, and which says why."""
    try:
        return carrier_of(url, host)
    except BadBusMessage as error:
        return Nowhere(" ".join(filter(None, (error.what, error.why, error.hint))), host)


class Nowhere:
    """A carrier that has no broker."""

    dropped = 0

    def __init__(self, why: str, host: Host) -> None:
        self._why, self._host = why, host

    async def run(self) -> None:
        self._host.down(self._why)
        await asyncio.get_running_loop().create_future()

    def renew(self, url: str) -> None:
        """It is as wrong."""

    async def retire(self) -> None:
        """Nothing comes here."""

    def now(self) -> float:
        return time.time()

    async def join(self, name: bytes, since: float, mode: int) -> bool:
        raise Away(self._why)

    def leave(self, name: bytes) -> None:
        """Nobody knew of it."""

    async def to_all(self, name: bytes, data: bytes) -> set[str]:
        raise Away(self._why)

    async def to_one(self, name: bytes, data: bytes) -> str:
        raise Away(self._why)

    def send(self, host: str, data: bytes) -> None:
        """There is nobody."""

    async def missing(self, hosts: Iterable[str]) -> set[str]:
        raise Away(self._why)
