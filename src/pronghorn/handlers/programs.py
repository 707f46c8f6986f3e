"""Programs: the connection is their standard input and output, as under inetd and tcpserver.

Law: one process per connection, started and waited for here, whatever the model. The socket is closed here after the
program's end: the program's own exit would cut a reply whose question was not read to its end.

The environment is UCSPI's: PROTO, TCPREMOTEIP, TCPREMOTEPORT, TCPLOCALIP, TCPLOCALPORT; for a unix socket PROTO is IPC,
with IPCREMOTEEUID and IPCREMOTEEGID. With a PROXY header the addresses are those of the header, and there are no
credentials: the kernel knows those of the proxy alone. WORKER_NUMBER and its like say which worker it is.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import struct
import subprocess

from pronghorn import identity
from pronghorn.connection.blocking import Connection
from pronghorn.system import descriptors

NAMES = frozenset(
    "PROTO TCPREMOTEIP TCPREMOTEPORT TCPREMOTEHOST TCPREMOTEINFO TCPLOCALIP TCPLOCALPORT TCPLOCALHOST "
    "IPCREMOTEPATH IPCREMOTEEUID IPCREMOTEEGID IPCREMOTEPID IPCREMOTEINFO IPCLOCALPATH".split()
)
"""UCSPI's variables for a connection: those of another connection are taken out of the environment, and no others."""


def environment(conn: Connection) -> dict[str, str]:
    """Our environment with UCSPI's variables for this connection, and without those of another."""
    ours = {name: value for name, value in os.environ.items() if name not in NAMES} | identity.variables()
    peer, local = conn.peer, conn.local
    if isinstance(peer, tuple):
        ours |= {"PROTO": "TCP", "TCPREMOTEIP": peer[0], "TCPREMOTEPORT": str(peer[1])}
        if isinstance(local, tuple):
            ours |= {"TCPLOCALIP": local[0], "TCPLOCALPORT": str(local[1])}
        return ours
    ours |= {"PROTO": "IPC", "IPCREMOTEPATH": peer}
    if isinstance(local, str) and local:
        ours["IPCLOCALPATH"] = local
    introduced = conn.proxy is not None and conn.proxy.source is not None
    if hasattr(socket, "SO_PEERCRED") and not introduced:
        _, uid, gid = struct.unpack("3i", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        ours |= {"IPCREMOTEEUID": str(uid), "IPCREMOTEEGID": str(gid)}
    return ours


def run(command: tuple[str, ...], conn: Connection) -> None:
    """Run the program over the connection and wait for its end; OSError if it cannot be started. Afterwards
    `conn.program_end` says how it ended."""
    if descriptors.original is not None:
        # The limit is set by a shell that becomes the program: setrlimit between fork and exec would need Python
        # code in the child, which threads forbid.
        limit = f'ulimit -S -n {descriptors.original}; exec "$@"'
        command = ("/bin/sh", "-c", limit, shlex.quote(command[0]), *command)
    os.set_blocking(conn.fileno(), True)
    with subprocess.Popen(
        command,
        stdin=conn.fileno(),
        stdout=conn.fileno(),
        env=environment(conn),
        start_new_session=True,  # Ctrl-C at the terminal is for the server, which drains
    ) as program:
        conn.lend_to_program(program.pid, lambda: _kill(program))
        conn.waits.call(program.wait)
    conn.take_from_program(_ending(program.returncode))


def _ending(status: int) -> str:
    """How a program ended, from subprocess's return code: its exit status, or the signal that killed it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _kill(program: subprocess.Popen[bytes]) -> None:
    if program.returncode is None:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
