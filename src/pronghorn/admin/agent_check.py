"""HAProxy's agent check: one line for each connection, which says how much of the load this server takes.

Law: `up N%` while the server takes clients, where N is the part of the connections that it can have which are free;
`up 0%` while it starts, drains or is about to stop, so that no new client comes and those that are there stay; `down`
when its supervisor does not answer. The words `drain` and `ready` are said only where a setting asks for them: they set
the server's administrative state, which nothing but `ready` ends, and that ends a maintenance, too, which a person has
set in HAProxy (its manual, agent-check). `ready` is then said always: HAProxy may have heard `drain` from a server that
was killed since.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pronghorn.admin.supervisor_line import SupervisorLine
from pronghorn.errors import PronghornError

MOST = 64  # connections at once
QUEUE = 4096  # clients that wait to be accepted
PATIENCE = 2.0  # seconds until a client has to have taken its line


class AgentCheck:
    """Answers by what the supervisor says on `line`; with `drain` by that word and `ready`, too."""

    def __init__(self, line: SupervisorLine, *, drain: bool = False) -> None:
        self._line, self._drain = line, drain
        self._servers: list[asyncio.Server] = []
        self.open = 0

    async def serve(self, listener: Any) -> None:
        """From now on clients of a listening socket are answered."""
        self._servers.append(await asyncio.start_server(self._answer, sock=listener, limit=1024, backlog=QUEUE))

    def leave(self) -> None:
        """Accepts no more."""
        stop_accepting(self._servers)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says the line at once: what an `agent-send` asks is not read."""
        self.open += 1
        try:
            if self.open <= MOST:
                writer.write(await self._words())
                writer.write_eof()
                async with asyncio.timeout(PATIENCE):  # the end of the client: to close before may reset the line
                    while await reader.read(1024):
                        pass
        except (OSError, TimeoutError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _words(self) -> bytes:
        try:
            return words(await self._line.look("health"), drain=self._drain).encode() + b"\n"
        except PronghornError:
            return b"down #the supervisor does not answer\n"


def stop_accepting(servers: list[asyncio.Server]) -> None:
    """Leaves who waits in the queues to another process. Not Server.close(): it would reset connections that asyncio
    has accepted in this turn of its loop (in Python 3.11 to 3.13 at least)."""
    for server in servers:
        for sock in server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())


def words(health: dict[str, Any], *, drain: bool = False) -> str:
    """The line for what `health` says; what stands behind # is shown by HAProxy and its log."""
    if not health["ready"]:
        return f"up {'drain' if drain else '0%'} #{health['why']}"
    most = health["most"]
    free = 100 - 100 * min(health["open"], most) // most if most else 100
    return f"up {'ready ' if drain else ''}{max(1, free)}%"
