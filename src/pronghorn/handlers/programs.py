"""Programs: the connection is their standard input and output, as under inetd and tcpserver.

Law: one process per connection, started and waited for here, whatever the model. We stay behind it and close after
it: the program's own exit would cut a reply whose question was not read to its end.

The environment is UCSPI's: PROTO, TCPREMOTEIP, TCPREMOTEPORT, TCPLOCALIP, TCPLOCALPORT; for a unix socket PROTO is IPC,
with IPCREMOTEEUID and IPCREMOTEEGID.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess

from pronghorn.connection import Connection
from pronghorn.errors import BadHandler

original_descriptors: int | None = None
"""The soft limit of descriptors that the server was started with; programs get it back (select(2) needs it low)."""


def found(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with its program's whole path; BadHandler if there is no such program."""
    path = shutil.which(command[0])
    if path is None:
        raise BadHandler(
            f"The program {command[0]!r} cannot be run.",
            "It is neither on the PATH nor an executable file.",
            "Check its spelling, its mode (chmod +x), or give its whole path.",
        )
    return (path, *command[1:])


def environment(conn: Connection) -> dict[str, str]:
    """Our environment with UCSPI's variables for this connection, and without those of another."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("TCPREMOTE", "TCPLOCAL", "IPCREMOTE", "PROTO"))}
    if isinstance(conn.peer, tuple):
        local = conn.getsockname()
        ours |= {"PROTO": "TCP", "TCPREMOTEIP": conn.peer[0], "TCPREMOTEPORT": str(conn.peer[1])}
        ours |= {"TCPLOCALIP": local[0], "TCPLOCALPORT": str(local[1])}
    else:
        ours |= {"PROTO": "IPC", "IPCREMOTEPATH": conn.peer}
        if hasattr(socket, "SO_PEERCRED"):
            _, uid, gid = struct.unpack("3i", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            ours |= {"IPCREMOTEEUID": str(uid), "IPCREMOTEEGID": str(gid)}
    return ours


def run(command: tuple[str, ...], conn: Connection) -> None:
    """Run the program over the connection and wait for its end; OSError if it cannot be started."""
    if original_descriptors is not None:
        # The limit is set by a shell that becomes the program: setrlimit between fork and exec would need Python
        # code in the child, which threads forbid.
        limit = f'ulimit -S -n {original_descriptors}; exec "$@"'
        command = ("/bin/sh", "-c", limit, shlex.quote(command[0]), *command)
    os.set_blocking(conn.fileno(), True)
    with subprocess.Popen(
        command,
        stdin=conn.fileno(),
        stdout=conn.fileno(),
        env=environment(conn),
        start_new_session=True,  # Ctrl-C at our terminal is for us, who drain
    ) as program:
        conn.on_cut = lambda: _kill(program)
        conn.waits.call(program.wait)
    conn.on_cut = None


def _kill(program: subprocess.Popen[bytes]) -> None:
    if program.returncode is None:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
