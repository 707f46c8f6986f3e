"""The carrier for a URL: what brings the bus from host to host, chosen by the scheme.

Law: a carrier's package is imported here, when its URL is used, and nowhere else.
"""

from __future__ import annotations

from pronghorn.bus.carrier import Carrier, Host
from pronghorn.bus.errors import BadBusMessage

REDIS = (
    "redis",
    "rediss",
    "unix",
    "redis+unix",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
)
NATS = ("nats", "tls")
PACKAGES = ("redis", "nats")


def carrier_of(url: str, host: Host) -> Carrier:
    """The carrier that this URL names, for this host; nothing is connected yet.

    Raises BadBusMessage for a URL that names none, and where its package is not installed. No message holds what
    stands in the URL, since that may be a password."""
    scheme = url.partition("://")[0].lower()
    try:
        if scheme in REDIS:
            from pronghorn.bus.redis_carrier import RedisCarrier

            return RedisCarrier(url, host)
        if scheme in NATS:
            from pronghorn.bus.nats_carrier import NatsCarrier
            from pronghorn.bus.nats_url import place_of

            return NatsCarrier(place_of(url), host)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise BadBusMessage(
            f"The package of {package} is not installed.", hint=f"pip install 'pronghorn[{package}]'"
        ) from None
    raise BadBusMessage("No carrier has this URL.", hint="It begins with redis://, rediss://, nats:// or tls://.")
