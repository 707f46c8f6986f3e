"""What can be told of an open connection while it is open: a row for `ctl connections`, the status page and `top`.

Law: nothing here blocks or raises, whatever a handler has put into its fields; and nothing is noted while serving for
the sake of a row: a row is made when somebody asks. A row is bounded: what a handler or a client has chosen is capped.

A row has these fields, in this order. Times are seconds, sizes are bytes; None where it cannot be known.

| field | is |
|---|---|
| `number` | the connection's number in its worker |
| `peer` | the client's address, `192.0.2.1:4711`, `[2001:db8::1]:4711`, `unix:PATH`, `unix`; a proxy's word counts |
| `proxy` | the address of the proxy that made the connection for its client; None without one |
| `listener` | the name of its listener |
| `age` | since it was accepted |
| `idle` | since a byte came or went |
| `bytes_in`, `bytes_out`, `messages` | what it has received and sent, and the messages that a framing has cut |
| `state` | `OPENING` (PROXY header, TLS handshake, its turn), `OPEN`, `HALF_CLOSED`, `CLOSING` |
| `tls` | `{"version": "TLSv1.3", "sni": "example.org"}`; None without TLS |
| `draining` | its handler has been told to finish |
| `staying` | its handler wants to go on although the server drains (`conn.stay()`) |
| `program` | the process id of the program behind it (`--exec`), or of the child that serves it (fork); None without |
| `fields` | the handler's own (`conn.log`), as text |
| `tcp_state` | the kernel's, as ss(8) writes it: `ESTABLISHED`, `CLOSE_WAIT` |
| `rtt_us` | round-trip time, microseconds |
| `retransmits` | segments that were sent again |
| `send_queue`, `receive_queue` | bytes that the peer has not acknowledged, and bytes that nobody has read |

The supervisor adds which connection and worker it is: `id` (`PID-NUMBER`), `worker` (the slot), `pid`, `generation`.
"""

from __future__ import annotations

import socket
from typing import Any, Literal, cast

import msgspec

from pronghorn.connection.base import AnyConnection
from pronghorn.connection.channel import AnyChannel
from pronghorn.connection.quiet import so_far
from pronghorn.connection.socket_facts import KernelFacts, kernel_facts, unread, unsent
from pronghorn.connection.transport import Transport
from pronghorn.errors import as_text
from pronghorn.peers import Peer, plain
from pronghorn.system.connection_filter import peer_text as in_one_word

State = Literal["OPENING", "OPEN", "HALF_CLOSED", "CLOSING"]
LONGEST_NAME, LONGEST_VALUE, MOST_FIELDS = 64, 256, 32  # of a handler's fields; characters
MOST = 2**53
PEER_HAS_ENDED, BOTH_HAVE = ("CLOSE_WAIT", "FIN_WAIT1", "FIN_WAIT2"), ("LAST_ACK", "CLOSING", "TIME_WAIT", "CLOSE")


class TlsRow(msgspec.Struct, frozen=True):
    """The TLS of a connection."""

    version: str
    sni: str | None


class ConnectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One open connection, as its worker knows it; its fields are in the table above."""

    number: int
    peer: str
    proxy: str | None = None
    listener: str = ""
    age: float
    idle: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    messages: int = 0
    state: State = "OPEN"
    tls: TlsRow | None = None
    draining: bool = False
    staying: bool = False
    program: int | None = None
    fields: dict[str, str] = {}
    tcp_state: str | None = None
    rtt_us: int | None = None
    retransmits: int | None = None
    send_queue: int | None = None
    receive_queue: int | None = None

    @property
    def bytes(self) -> int:
        return self.bytes_in + self.bytes_out

    @property
    def rate(self) -> float:
        return rate(self.bytes, self.age)

    def believed(self) -> ConnectionRow:
        """The same with nothing absurd in it: another process has written it."""
        changes: dict[str, Any] = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, str):
                changes[name] = value[:LONGEST_VALUE]
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                changes[name] = min(max(value, 0), MOST)
        fields = {name[:LONGEST_NAME]: value[:LONGEST_VALUE] for name, value in list(self.fields.items())[:MOST_FIELDS]}
        tls = self.tls
        if tls is not None:
            tls = TlsRow(tls.version[:LONGEST_NAME], None if tls.sni is None else tls.sni[:LONGEST_VALUE])
        return msgspec.structs.replace(self, **changes, fields=fields, tls=tls)


class Facts:
    """What rows and filters ask of one open connection, each answer once: the kernel only if it is needed. A child of
    the fork model is asked in the same way (models/children.py)."""

    __slots__ = ("_kernel", "conn", "now")

    def __init__(self, conn: AnyConnection, now: float) -> None:
        self.conn, self.now = conn, now
        self._kernel: KernelFacts | Literal[False] | None = False

    @property
    def number(self) -> int:
        return self.conn.number

    @property
    def address(self) -> Peer:
        return self.conn.peer

    @property
    def peer(self) -> str:
        return peer_text(self.conn.peer)

    @property
    def listener(self) -> str:
        return self.conn.listener

    @property
    def age(self) -> float:
        return max(0.0, self.now - self.conn.opened)

    @property
    def sock(self) -> socket.socket:
        return cast(socket.socket, self.conn.sock if isinstance(self.conn, AnyChannel) else self.conn)

    @property
    def kernel(self) -> KernelFacts | None:
        if self._kernel is False:
            self._kernel = kernel_facts(self.sock)
        return self._kernel

    @property
    def idle(self) -> float | None:
        """Seconds since a byte came or went, or the last one came where the kernel does not tell more."""
        if self.kernel is not None:
            return min(self.kernel.idle, self.age)
        seen = so_far(self.conn) if isinstance(self.conn, AnyChannel) else self.conn.seen
        return max(0.0, self.now - seen.heard) if seen is not None else None

    @property
    def both_ways(self) -> tuple[int, int]:
        """Bytes received and sent: those of a handler that reads its socket by itself are the kernel's."""
        conn = self.conn
        if isinstance(conn, AnyChannel):
            return conn.bytes_in, conn.bytes_out
        if isinstance(conn.protocol, Transport):
            return conn.protocol.bytes_in, conn.protocol.bytes_out
        opened, sealed = getattr(conn, "_opened", None), getattr(conn, "_sealed", None)
        if isinstance(opened, int) and isinstance(sealed, int):  # below TLS the kernel knows other bytes
            return opened, sealed
        if (conn.bytes_in or conn.bytes_out) or self.kernel is None:
            return conn.bytes_in, conn.bytes_out
        return self.kernel.bytes_in, self.kernel.bytes_out

    @property
    def bytes(self) -> int:
        return sum(self.both_ways)

    @property
    def rate(self) -> float:
        return rate(self.bytes, self.age)

    @property
    def bytes_in(self) -> int:
        return self.both_ways[0]

    @property
    def bytes_out(self) -> int:
        return self.both_ways[1]

    @property
    def messages(self) -> int:
        return self.conn.messages

    @property
    def rtt_us(self) -> int | None:
        return self.kernel and self.kernel.rtt_us

    @property
    def retransmits(self) -> int | None:
        return self.kernel and self.kernel.retransmits

    @property
    def send_queue(self) -> int | None:
        return unsent(self.sock)

    @property
    def receive_queue(self) -> int | None:
        return unread(self.sock)

    @property
    def state(self) -> State:
        conn = self.conn
        if isinstance(conn, AnyChannel):
            return "CLOSING" if conn.state.name == "CLOSED" else cast(State, conn.state.name)
        if getattr(conn, "cut_by", None) is not None:
            return "CLOSING"
        if not getattr(conn, "flow", 0) or getattr(conn, "awaits_header", False):
            return "OPENING"
        if hasattr(conn, "records") and conn.tls is None:
            return "OPENING"
        if self.kernel is None or self.kernel.tcp_state == "ESTABLISHED":
            return "OPEN"
        return "CLOSING" if self.kernel.tcp_state in BOTH_HAVE else "HALF_CLOSED"

    @property
    def fields(self) -> dict[str, str]:
        return {
            sendable(as_text(name))[:LONGEST_NAME]: sendable(as_text(value))[:LONGEST_VALUE]
            for name, value in list((self.conn.log_fields or {}).items())[:MOST_FIELDS]
        }

    def row(self) -> ConnectionRow:
        """Everything."""
        conn, kernel, (bytes_in, bytes_out) = self.conn, self.kernel, self.both_ways
        tls = conn.tls
        return ConnectionRow(
            number=conn.number,
            peer=self.peer,
            proxy=self._proxy(),
            listener=conn.listener,
            age=round(self.age, 6),
            idle=None if self.idle is None else round(self.idle, 6),
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            messages=conn.messages,
            state=self.state,
            tls=None if tls is None else TlsRow(tls.version, tls.sni),
            draining=conn.draining,
            staying=conn.stays,
            program=getattr(conn, "program", 0) or None,
            fields=self.fields,
            tcp_state=kernel and kernel.tcp_state,
            rtt_us=self.rtt_us,
            retransmits=self.retransmits,
            send_queue=self.send_queue,
            receive_queue=self.receive_queue,
        )

    def _proxy(self) -> str | None:
        if self.conn.proxy is None:
            return None
        try:
            return peer_text(self.sock.getpeername())
        except OSError:
            return ""


def rate(count: int, age: float) -> float:
    """Bytes a second since a connection was accepted; one that has just come is measured over a whole second."""
    return count / max(age, 1.0)


def sendable(text: str) -> str:
    """The text as UTF-8 can carry it: what was no text, as in a path, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text


def peer_text(peer: Any) -> str:
    """An address as the access log tells it, also one that comes from the kernel: an abstract one is no text."""
    if isinstance(peer, tuple):
        return in_one_word((plain(str(peer[0])), peer[1]))
    return in_one_word(peer if isinstance(peer, str) else "")
