"""The samples of deploy/nginx: a real nginx in front of two servers, what it tells them, and whom it leaves out."""

from __future__ import annotations

import glob
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from behind import (
    DEPLOY,
    PLACES,
    Clients,
    Host,
    answers_a_last_word,
    ask,
    balancer,
    changed,
    connect,
    hosts,
    killed,
    running,
    said,
    serves,
    turns_away,
)

from launch import wait_for

NGINX = balancer("nginx", "the package nginx of the system", "/usr/sbin", "/usr/local/sbin")
MODULE = glob.glob("/usr/lib*/nginx/modules/ngx_stream_module.so")
if not MODULE and "--with-stream " not in subprocess.run([NGINX, "-V"], capture_output=True, text=True).stderr:
    pytest.skip("nginx has no module stream (libnginx-mod-stream)", allow_module_level=True)
pytestmark = pytest.mark.slow

FRONTS = {"plain": "listen 8000", "passing": "listen 8443", "ending": "listen 8444"}


class Nginx:
    """A running nginx, the ports where it listens, and the two servers behind it."""

    def __init__(self, folder: Path, fronts: dict[str, int], hosts: dict[str, Host]) -> None:
        self.folder, self.hosts = folder, hosts
        self.plain, self.passing, self.ending = (fronts[name] for name in FRONTS)


MAIN = """
{load}
{user}
daemon off;
pid {folder}/pid;
error_log stderr info;
events {{}}
include {folder}/stream.conf;
"""


def configure(folder: Path, hosts: dict[str, Host], fronts: dict[str, int]) -> None:
    """The samples in this folder, for two servers of this machine and ports of its own, and an nginx.conf."""
    listen = {old: f"listen 127.0.0.1:{fronts[name]}" for name, old in FRONTS.items()}
    own = hosts["one"].folder
    ending = {"/etc/nginx/devices.crt": f"{own}/tls_cert.pem", "/etc/nginx/devices.key": f"{own}/tls_key.pem"}
    stream = {"/var/log/nginx": str(folder), "# include /etc/nginx": f"include {folder}"}
    for name, host in hosts.items():
        stream |= {f"{PLACES[name]}:8000": host.plain, f"{PLACES[name]}:8443": host.tls}
    ending["listen 8444"] = listen.pop("listen 8444")
    for name, changes in (("stream.conf", {**stream, **listen}), ("devices-tls.conf", ending)):
        (folder / name).write_text(changed((DEPLOY / "nginx" / name).read_text(), changes))
    load = f"load_module {MODULE[0]};" if MODULE else ""
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, load=load, user="" if os.getuid() else "user root;"))


@contextmanager
def balanced(folder: Path) -> Iterator[Nginx]:
    with ExitStack() as stack:
        both = stack.enter_context(hosts(folder))
        fronts = {name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in FRONTS}
        ports = {name: sock.getsockname()[1] for name, sock in fronts.items()}
        configure(folder, both, ports)
        descriptors = tuple(sock.fileno() for sock in fronts.values())
        # As at an upgrade nginx takes over listeners that are named there: nobody else can have taken the ports.
        inherited = "".join(f"{each};" for each in descriptors)
        command = ["env", f"NGINX={inherited}", NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        stack.enter_context(running(command, folder, descriptors))
        found = Nginx(folder, ports, both)
        wait_for(lambda: serves(found.plain, "one", "two"), "both servers")
        yield found


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with balanced(tmp_path_factory.mktemp("nginx")) as found:
        yield found


def test_nginx_takes_the_samples(nginx: Nginx) -> None:
    command = [NGINX, "-t", "-p", str(nginx.folder), "-c", "nginx.conf", "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "[warn]" not in done.stderr, done.stderr


def test_the_server_knows_the_client_in_plain_text_and_under_tls(nginx: Nginx) -> None:
    assert ask(nginx.plain)[2:] == ("v1", "none", False)
    assert ask(nginx.passing, "devices.example")[2:] == ("v1", "none", True)
    assert ask(nginx.passing, "else.example")[2:] == ("v1", "none", True)
    assert ask(nginx.ending, "localhost")[2:] == ("v1", "none", False)


def test_a_client_that_has_said_its_last_word_gets_its_reply(nginx: Nginx) -> None:
    assert answers_a_last_word(nginx.plain)


def a_server_that_stops_loses_no_client_and_answers_those_that_it_has(nginx: Nginx) -> None:
    one = nginx.hosts["one"].server
    with ExitStack() as held, Clients(nginx.plain) as clients:
        while said(stays := held.enter_context(connect(nginx.plain))).server != "one":
            pass
        one.send(signal.SIGTERM)
        wait_for(lambda: "Draining in" in one.log, "the drain")
        assert said(stays).server == "one"
        one.send(signal.SIGTERM)  # no check of nginx asks for the delay
        assert one.exit() == 0
        assert set(clients.more(20)) == {"two"}
    assert not clients.failures


def nobody_is_served_by_a_server_that_is_killed(nginx: Nginx) -> None:
    for host in nginx.hosts.values():
        killed(host.server)
    wait_for(lambda: turns_away(nginx.plain), "an end for clients")
    wait_for(lambda: "connect() failed" in (nginx.folder / "log").read_text(), "the reason")


def test_a_server_that_stops_loses_no_client_and_one_that_is_killed_serves_nobody(tmp_path: Path) -> None:
    """With servers of its own, which are gone afterwards: tests come in any order."""
    with balanced(tmp_path) as nginx:
        a_server_that_stops_loses_no_client_and_answers_those_that_it_has(nginx)
        nobody_is_served_by_a_server_that_is_killed(nginx)
