"""The carrier for a URL: what brings the bus from host to host, chosen by the scheme.

Law: a carrier's package is imported here, when its URL is used, and nowhere else.
"""

from __future__ import annotations

from importlib.util import find_spec

from pronghorn.bus.carrier import Carrier, Host
from pronghorn.bus.errors import BadBusMessage
from pronghorn.settings.broker_url import EXTRAS, REDIS, SCHEMES


def is_broker(url: str) -> bool:
    """Whether this is the URL of a broker."""
    scheme, mark, _ = url.partition("://")
    return bool(mark) and scheme in SCHEMES


def carrier_of(url: str, host: Host) -> Carrier:
    """The carrier that this URL names, for this host; nothing is connected yet.

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

        return RedisCarrier(url, host)
    from pronghorn.bus.nats_carrier import NatsCarrier
    from pronghorn.bus.nats_url import place_of

    return NatsCarrier(place_of(url), host)
