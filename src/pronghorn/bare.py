"""What a connection without TLS says where one with TLS has something else to say.

Law: answers, and no more; tls_connection.py has the others. So nobody who holds a connection asks which kind it is.
"""

from __future__ import annotations

from typing import Any


class Bare:
    """The base of what every blocking connection carries."""

    tls: Any = None
    """What there is to know of the TLS below (`pronghorn.tls.TlsFacts`); None where there is none."""
    records: Any = None
    """What seals and opens (`pronghorn.tls.Records`); None where there is no TLS."""

    @property
    def reason(self) -> str:
        """Why the connection ended, if nothing went wrong."""
        return "done"

    @property
    def holds_input(self) -> bool:
        """Whether the next read need not wait, whatever poll(2) says: there is something pending, or the end."""
        return False

    def shake_hands(self, context: Any, seconds: float) -> None:
        """Hold the handshake."""

    def pending(self) -> int:
        """Bytes that are in this process already, and readable whatever select(2) says."""
        return 0

    def heard(self, info: Any) -> int:
        """Bytes that have come for the handler, of which the kernel has this TcpInfo."""
        return int(info.bytes_in)
