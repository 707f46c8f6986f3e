"""`ConnectionFilter`: a filter of Python's logging, by which a handler's own records tell which connection they are of.

Law: nothing here is imported or called unless somebody uses the filter, or the log is JSON.
"""

from __future__ import annotations

import logging

from pronghorn import identity
from pronghorn.errors import NotInWorker, printable
from pronghorn.peers import Peer
from pronghorn.system.drain import connection_here

NOTHING = "-"
LONGEST = 256  # characters of what a peer has chosen


class ConnectionFilter(logging.Filter):
    """Adds to each record what an access log tells under the same names: `id`, the connection (`12411-37`), `peer`,
    `listener` and `worker`; `-` where the code that logs serves no connection.

    It belongs to a logging handler, so that the records of all loggers pass it: by `handler.addFilter(...)`, or in a
    configuration for logging.config.dictConfig as `{"()": "pronghorn.ConnectionFilter"}` under `filters`. A record that
    has an attribute of such a name keeps it. Code in a thread that a handler has started serves no connection, unless
    it runs in a copy of the handler's context (contextvars.copy_context).
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in {**_NOWHERE, **fields_here()}.items():
            record.__dict__.setdefault(name, value)
        return True

    @staticmethod
    def fields() -> dict[str, str | int]:
        """The same where there is no record, as in a processor of structlog; what is not known is left out."""
        return fields_here()


_NOWHERE: dict[str, str | int] = dict.fromkeys(("id", "peer", "listener", "worker"), NOTHING)


def fields_here() -> dict[str, str | int]:
    """Which connection the calling code serves, in which worker; what is not known is left out."""
    found: dict[str, str | int] = {}
    try:
        worker = identity.worker()
    except NotInWorker:
        return found
    found["worker"] = worker.number
    conn = connection_here()
    if conn is not None:
        found |= {"id": f"{worker.pid}-{conn.number}", "peer": peer_text(conn.peer), "listener": conn.listener}
    return found


def peer_text(peer: Peer) -> str:
    """A peer in one word: `192.0.2.7:51234`, `[2001:db8::7]:51234`, `unix:/run/client.sock`, or `unix`."""
    if isinstance(peer, str):
        return f"unix:{printable(peer, LONGEST, '')}" if peer else "unix"
    host, port = peer
    if not host.isprintable():
        host = printable(host, LONGEST, "")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
