"""What a program is told of its connection, and what is told of its end; and the same for socketserver's handlers."""

from __future__ import annotations

import signal
import socket
import socketserver
import struct
from pathlib import Path

import pytest

from pronghorn.connection.proxy_protocol import SIGNATURE
from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 8000\r\n"
UNKNOWN = b"PROXY UNKNOWN\r\n"
PATHS = b"/run/client".ljust(108, b"\0") + b"/run/there".ljust(108, b"\0")
UNIX = SIGNATURE + struct.pack("!BBH", 0x21, 0x31, len(PATHS)) + PATHS
ENV = ("env",)
THERE = {"TCPREMOTEIP": "192.0.2.7", "TCPREMOTEPORT": "4711"}
TCP = {"PROTO": "TCP", **THERE, "TCPLOCALIP": "192.0.2.8", "TCPLOCALPORT": "8000"}
IPC = {"PROTO": "IPC", "IPCREMOTEPATH": "/run/client", "IPCLOCALPATH": "/run/there"}


class Addresses(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(f"{self.client_address} {self.server.server_address}".encode())


def said(server: Served, header: bytes) -> bytes:
    with server.connect() as client:
        return exchange(client, header, end=True)


def addresses(told: bytes) -> dict[str, str]:
    """The variables of a connection, of all that env prints."""
    pairs = (line.split("=", 1) for line in told.decode().splitlines() if "=" in line)
    return {name: value for name, value in pairs if name.startswith(("PROTO", "TCP", "IPC"))}


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_program_behind_a_proxy_is_told_the_clients_addresses_and_nobodys_credentials(
    tmp_path: Path, unix: bool
) -> None:
    bind = f"unix:{tmp_path}/s" if unix else "127.0.0.1:0"
    with serving(ENV, model="thread", bind=bind, proxy_from=("unix", "127.0.0.1")) as server:
        assert addresses(said(server, LINE)) == TCP
        assert addresses(said(server, UNIX)) == IPC
        own = addresses(said(server, UNKNOWN))
        if unix:
            assert own["PROTO"] == "IPC" and own["IPCLOCALPATH"] == f"{tmp_path}/s"
        else:
            assert (own["TCPREMOTEIP"], own["TCPLOCALPORT"]) == ("127.0.0.1", str(server.address[1]))


def test_only_the_exact_names_of_ucspi_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    users = {"PROTOC": "/opt/protoc", "PROTOTYPE": "x", "TCPREMOTE_ALLOW": "10.0.0.0/8", "IPCREMOTES": "y"}
    others = {"PROTO": "OLD", "TCPREMOTEIP": "198.51.100.9", "TCPREMOTEHOST": "h", "IPCREMOTEEUID": "0"}
    for name, value in (users | others).items():
        monkeypatch.setenv(name, value)
    with serving(ENV, model="thread") as server:
        found = addresses(said(server, b""))
    assert users.items() <= found.items()
    assert (found["PROTO"], found["TCPREMOTEIP"]) == ("TCP", "127.0.0.1")
    assert not {"TCPREMOTEHOST", "IPCREMOTEEUID"} & set(found)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_socketserver_handler_behind_a_proxy_is_told_both_addresses(tmp_path: Path, unix: bool) -> None:
    bind = f"unix:{tmp_path}/s" if unix else "127.0.0.1:0"
    with serving(Addresses, model="thread", bind=bind, proxy_from=("unix", "127.0.0.1")) as server:
        assert said(server, LINE) == b"('192.0.2.7', 4711) ('192.0.2.8', 8000)"


@pytest.mark.parametrize("model", ["thread", "fork"])
def test_how_a_program_ended_is_in_its_connections_record(model: str) -> None:
    command = ("sh", "-c", 'read how; [ "$how" = crash ] && kill -SEGV $$; exit "$how"')
    with serving(command, model=model, log_level="debug") as server:
        for how in (b"0\n", b"3\n", b"crash\n"):
            with server.connect() as client:
                exchange(client, how, end=True)
        until(lambda: server.log().count("closed connection") == 3)
        assert ": done (exit status 0) after" in server.log()
        assert ": done (exit status 3) after" in server.log()
        assert f": error (killed by {signal.SIGSEGV.name}) after" in server.log()


def test_local_is_where_the_client_has_connected_to() -> None:
    with serving("test_programs:local", model="thread", proxy_from=("127.0.0.1",)) as server:
        assert said(server, LINE) == b"('192.0.2.8', 8000)"
        assert said(server, UNKNOWN) == str(server.address).encode()


def local(conn: socket.socket) -> None:
    conn.sendall(str(conn.local).encode())  # type: ignore[attr-defined]
