"""What a caller of the bus may have to act on.

Law: none of them is a ConnectionError, which in a handler would stand for the end of its own client's connection.
"""

from __future__ import annotations

from pronghorn.errors import PronghornError


class BusError(PronghornError):
    """The base of all errors of the bus."""


class NobodyThere(BusError):
    """No connection has joined the name that was asked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Nobody has joined {name!r}.", hint="A handler's connections join by conn.join(name).")


class NoAnswer(BusError, TimeoutError):
    """A connection was asked, and has not answered in time. It may have acted."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"{name!r} has not answered in {seconds:g} s.", "It was asked, and may have acted.")


class CannotAnswer(BusError):
    """A connection was asked whose handler answers no questions, or which failed to."""

    def __init__(self, name: str, why: str, hint: str = "") -> None:
        super().__init__(f"{name!r} cannot answer.", why, hint)


class BusLost(BusError):
    """What was asked was under way when its way was lost: it may have arrived, or not."""

    def __init__(self, why: str = "The connection to the hub has ended.") -> None:
        super().__init__("It is not known whether the message arrived.", why, "Send it again if twice does no harm.")


class HubSilent(BusLost):
    """The same: the hub, or the broker, has not said in time what became of it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"It has not answered in {seconds:g} s.")


class BusUnavailable(BusError):
    """The bus cannot be reached. Nothing was sent."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__("The bus cannot be reached.", why, hint)


class OtherHostsUnreached(BusError):
    """Other hosts were not reached: the broker is away, or went away before they had said so. `reached` connections of
    the caller's own server have taken the message."""

    def __init__(self, reached: int) -> None:
        here = f"{reached:,} connection{'s' * (reached != 1)} of this server {'have' if reached != 1 else 'has'} it."
        super().__init__(
            "Other hosts were not reached.", f"The broker is away; {here}", "pronghorn ctl status says why."
        )
        self.reached = reached


class NameTaken(BusError):
    """Another connection holds the name, and this one does not take it over."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Another connection has joined {name!r}.", hint="exclusive=True takes it over.")


class BadBusMessage(BusError, ValueError):
    """A name or a payload that the bus does not carry."""
