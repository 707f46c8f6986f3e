"""A real Prometheus scrapes a running server: its page, the dashboard and the alert rules name what is there."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from brokers import free_port
from launch import Launched, launched_code, wait_for
from pronghorn.admin.catalogue import HISTOGRAM, METRICS

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "pronghorn.json"
PAGE = ROOT / "docs" / "metrics.md"
NAME = re.compile(r"\bpronghorn_[a-z_]+")
CODE = """
import pronghorn

lines = pronghorn.metrics.counter("lines_total", "Lines.", labels=("kind",))

@pronghorn.message(pronghorn.lines)
def handler(line):
    pronghorn.bus.join(line)
    lines.labels("any").inc()
    return line.upper()
"""


def exported() -> set[str]:
    """The names of all series of ours."""
    names = set()
    for name, declared in METRICS.items():
        names |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if declared.kind == HISTOGRAM else {name}
    return names


def expressions() -> list[str]:
    """What the dashboard and the rules ask of Prometheus, with the variables of Grafana filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    found += [each["expr"] for each in dashboard["annotations"]["list"]]
    blocks = re.split(r"- alert: ", RULES.read_text())[1:]
    for block in blocks:
        (expression,) = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n {8}(?:for|labels):", block)
        found.append(" ".join(expression.split()))
    return [each.replace("$__rate_interval", "1m").replace("$instance", ".*") for each in found]


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: prometheus)")


def test_the_files_name_only_what_there_is() -> None:
    asked = expressions()
    assert len(asked) > 60
    for each in asked:
        assert {*NAME.findall(each)} <= exported(), each


def test_the_page_of_the_docs_has_every_metric() -> None:
    text = PAGE.read_text()
    for name, declared in METRICS.items():
        labels = ", ".join(f"`{each}`" for each in declared.labels)
        row = f"| `{name}` | {declared.kind} | {labels} | {declared.help} |"
        assert row in text, f"docs/metrics.md lacks this line:\n{row}"
    assert {*NAME.findall(text)} - {"pronghorn_"} <= METRICS.keys()


@pytest.mark.slow
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    need("promtool")
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "check", "config", SCRAPE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A Prometheus of its own, which scrapes one server."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer; None as long as there is none."""
        try:
            url = f"{self._url}/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=15) as response:
                answer = json.load(response)
        except (OSError, ValueError):
            return None
        assert answer["status"] == "success", answer
        return answer["data"]

    def healths(self) -> list[str]:
        """How the last scrape of each target went."""
        return [each["health"] for each in (self.ask("targets") or {"activeTargets": ()})["activeTargets"]]

    def value(self, expression: str) -> float | None:
        """Of an expression with one result."""
        data = self.ask("query", query=expression)
        return float(data["result"][0]["value"][1]) if data and data["result"] else None


@contextmanager
def scraping(server: Launched, folder: Path) -> Iterator[Prometheus]:
    """Prometheus, with our own rules, which scrapes the server twice in a second."""
    port = free_port()
    config = SCRAPE.read_text().replace("15s", "500ms").replace("127.0.0.1:9901", server.report["admin"][0])
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(RULES, folder)
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_we_ship_asks_for_what_prometheus_has(tmp_path: Path) -> None:
    need("prometheus")
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    pair = tmp_path / "pair.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pair))
    knows = ssl.create_default_context()
    authority.configure_trust(knows)
    settings = {"tls_cert": [str(pair)], "tls_key": [str(pair)], "max_connections": 100, "workers": 2}
    with launched_code(tmp_path, CODE, admin=["127.0.0.1:0"], **settings) as server:
        for _ in range(5):
            plain = socket.create_connection(server.address)
            with knows.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(b"hello\n")
                assert client.recv(100) == b"HELLO\n"
        with scraping(server, tmp_path) as prometheus:
            wait_for(lambda: prometheus.value("pronghorn_connections_accepted_total") == 5, "a scrape", 60)
            wait_for(lambda: prometheus.value('lines_total{kind="any"}') == 5)
            wait_for(lambda: prometheus.value('pronghorn_tls_handshakes_total{result="done"}') == 5)
            wait_for(lambda: prometheus.value("pronghorn_bus_links") is not None)
            of_brokers = {
                each for each in exported() if "shared_limits" in each or "broker" in each
            }  # others have them
            wait_for(
                lambda: exported() - of_brokers <= {*(prometheus.ask("label/__name__/values") or ())}, "all series"
            )
            for expression in expressions():
                wait_for(lambda e=expression: prometheus.ask("query", query=e) is not None, expression)  # type: ignore[misc]
            rules = wait_for(lambda: prometheus.ask("rules"), "the rules")["groups"][0]["rules"]
            assert rules and not [each for each in rules if each["state"] == "firing"]
            wait_for(lambda: prometheus.healths() == ["up"], "a scrape in time")
