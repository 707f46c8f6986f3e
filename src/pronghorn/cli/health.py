"""`pronghorn health`: one line and an exit status, for the health checks of containers.

Law: whatever is wrong, the answer comes within the timeout, and the exit status is 1: 2 is reserved there (Docker,
HEALTHCHECK), and only a wrong command line has it. Nothing is written anywhere.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import rich_click as click

from pronghorn.cli.ctl import request, whom
from pronghorn.cli.layers import takes_json
from pronghorn.control import client
from pronghorn.errors import BadSetting, PronghornError, printable

HEALTHY, UNHEALTHY = 0, 1
SECONDS = 2.0
LONGEST_HEAD = 4096  # bytes
ADMIN = "Ask this address instead of the control socket: what the server was given as --admin."
READY = "Whether clients that connect now are served: some worker is ready, and the server does not drain. The default."
LIVE = "Whether the server is alive: its supervisor answers."


@click.command("health", short_help="Check the health of the server that runs here")
@click.option("--ready", "probe", flag_value="ready", default=True, help=READY)
@click.option("--live", "probe", flag_value="live", help=LIVE)
@click.option("--admin", metavar="ADDRESS", envvar="PRONGHORN_ADMIN", show_envvar=True, help=ADMIN)
@click.option("--timeout", metavar="DURATION", help=f"How long the answer may take. [default: {SECONDS:g}s]")
@whom.takes_server
@takes_json
@click.pass_context
def command(
    ctx: click.Context, /, probe: str, admin: str | None, timeout: str | None, as_json: bool, **values: Any
) -> int:
    """Check the health of the server that runs here, as in: HEALTHCHECK CMD ["pronghorn", "health"]. It asks over the
    control socket, as the server's user. The exit status is 0 for a healthy server and 1 otherwise."""
    find = whom.finder(ctx, values)
    seconds = SECONDS if timeout is None else request.duration(timeout)
    try:
        healthy, words = over_http(admin, probe, seconds) if admin else over_control(find, probe, seconds)
    except PronghornError as error:
        healthy, words = False, " ".join(filter(None, (error.what, error.why)))
    except OSError as error:
        healthy, words = False, f"{error.strerror or error}."
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "probe": probe, "why": words}))
    else:
        click.echo(f"{'healthy' if healthy else 'unhealthy'}: {printable(words, kept='')}")
    return HEALTHY if healthy else UNHEALTHY


def over_control(find: Callable[[], str], probe: str, seconds: float) -> tuple[bool, str]:
    """Whether the server is healthy, and how it is in words; raises NoServer."""
    status = client.ask(find(), {"command": "status"}, seconds, at_once=True)
    try:
        workers = status["workers"]
        words = f"{status['state']}, {workers['ready']} of {workers['wanted']} workers ready"
        checks = status.get("ready", {}).get("checks", ())
        words += "".join(f"; {name}: {told}" for name, _, told in checks if name == "bus" and told != "ok")
        return probe == "live" or request.serves(status), words
    except (KeyError, TypeError, ValueError):
        return False, "What answers is no Pronghorn server."


def over_http(address: str, probe: str, seconds: float) -> tuple[bool, str]:
    """The same by the admin address: `/readyz` or `/livez` answers with 200. Raises OSError, BadSetting."""
    deadline = time.monotonic() + seconds
    with _connected(address.removeprefix("http://").removesuffix("/"), seconds) as sock:  # as the log writes it
        sock.sendall(b"GET /%sz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % probe.encode())
        head = b""
        while b"\n" not in head and len(head) < LONGEST_HEAD:
            sock.settimeout(max(0.01, deadline - time.monotonic()))
            if time.monotonic() >= deadline or not (data := sock.recv(LONGEST_HEAD)):
                break
            head += data
    line = head.partition(b"\n")[0].decode("ascii", "replace").strip()
    found = re.fullmatch(r"HTTP/1\.[01] ([0-9]{3})(?: .*)?", line)
    if found is None:
        return False, f"{address} does not answer as an admin address."
    return found[1] == "200", f"{address} answers {line.partition(' ')[2]}"


def _connected(address: str, seconds: float) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = address[5:]
        sock.settimeout(seconds)
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise BadSetting(f"--admin cannot be {address!r}.", "It takes HOST:PORT, :PORT or unix:PATH.")
    host = host.strip("[]")
    return socket.create_connection(("127.0.0.1" if host in ("", "*", "0.0.0.0", "::") else host, int(port)), seconds)
