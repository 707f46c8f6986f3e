"""StatsD and OpenTelemetry: what is told, to whom, and that nobody who listens, or does not, harms the server."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch import Launched, launched, wait_for
from pronghorn.admin.families import Buckets, Family, Sample
from pronghorn.admin.statsd import MOST_BYTES, Target, datagrams, lines
from pronghorn.control import client
from pronghorn.errors import BadSetting
from pronghorn.settings import settle
from pronghorn.settings.metrics import check_statsd, statsd_place

HITS = Family("pronghorn_hits_total", "counter", "Hits.", [Sample((("kind", "a|b,c"),), 5.0)])
LOAD = Family("pronghorn_load", "gauge", "Load.", [Sample((), -2.5)])
TIMES = Family(
    "pronghorn_wait_seconds",
    "histogram",
    "Waits.",
    [Sample((), Buckets([(0.1, 0), (1.0, 3), (float("inf"), 4)], 2.0, ((0.25, 3), (float("inf"), 1))))],
)


# StatsD.


def test_counters_are_told_as_what_is_new() -> None:
    told: dict[str, float] = {}
    target = Target.of("", "my.app.", "env:prod,team:sea")
    assert [*lines([HITS], told, target)] == ["my.app.pronghorn.hits:5|c|#env:prod,team:sea,kind:a_b_c"]
    assert [*lines([HITS], told, target)] == []
    more = HITS._replace(samples=[Sample(HITS.samples[0].labels, 7.5)])
    assert [*lines([more], told, target)] == ["my.app.pronghorn.hits:2.5|c|#env:prod,team:sea,kind:a_b_c"]
    assert [*lines([HITS], told, target)] == ["my.app.pronghorn.hits:5|c|#env:prod,team:sea,kind:a_b_c"], "begun anew"


def test_gauges_and_timers() -> None:
    told: dict[str, float] = {}
    found = [*lines([LOAD, TIMES], told, Target.of("", "", ""))]
    assert found == [
        "pronghorn.load:0|g",
        "pronghorn.load:-2.5|g",
        "pronghorn.wait:250|ms|@0.3333333333",
        "pronghorn.wait:1000|ms",
    ]
    assert [*lines([TIMES], told, Target.of("", "", ""))] == []


def test_datagrams_pass_every_network() -> None:
    many = [f"name{index}:{'1' * (index % 300)}|c" for index in range(2000)] + ["x" * 2000]
    sent = [*datagrams(many)]
    assert max(map(len, sent)) <= MOST_BYTES
    assert b"\n".join(sent).decode().split("\n") == many[:-1]


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":8125", "host:x", "host:70000", "unix:", "http://host:1", "host:1:2", "::1:8125"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(BadSetting, match="HOST:PORT"):
        statsd_place(address)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"statsd_prefix": "a b"}, "--statsd-prefix is 'a b'"),
        ({"statsd_prefix": "web:1"}, "--statsd-prefix is 'web:1'"),
        ({"statsd_tags": "env=prod"}, "--statsd-tags has 'env=prod'"),
        ({"statsd_tags": "env:prod team:sea"}, "--statsd-tags has 'env:prod team:sea'"),
        ({"statsd_tags": "a|b"}, "--statsd-tags has 'a|b'"),
    ],
)
def test_what_would_break_the_lines_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(said)):
        check_statsd(settle({"statsd": "127.0.0.1:8125", **given}))
    check_statsd(settle({"statsd": "127.0.0.1:8125", "statsd_prefix": "prod.web", "statsd_tags": "env:a=b,bare,"}))


def test_addresses() -> None:
    assert statsd_place("[::1]:8125") == ("::1", 8125)
    assert statsd_place("unix:/run/statsd") == "/run/statsd"


class Heard:
    """A StatsD server that adds up what it hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.sums, self.longest = sock, Counter[str](), 0
        self.tags: set[str] = set()
        sock.settimeout(0.05)

    def take(self) -> Counter[str]:
        while True:
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                return self.sums
            self.longest = max(self.longest, len(data))
            for line in data.decode().split("\n"):
                name, number, kind, rest = re.fullmatch(r"([^:|]+):([^|]+)\|(\w+)(.*)", line).groups()  # type: ignore[union-attr]
                rate = re.search(r"\|@([\d.e-]+)", rest)
                if kind == "c":
                    self.sums[name] += float(number)
                elif kind == "ms":
                    self.sums[name] += round(1 / float(rate[1])) if rate else 1
                self.tags.update(rest.partition("|#")[2].split(","))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["udp", "unix"])
def test_everything_is_told_once(family: str, tmp_path: Path) -> None:
    """The admin process is killed, or the server upgraded, in between."""
    if family == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        address = f"localhost:{sock.getsockname()[1]}"
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(tmp_path / "s"))
        address = f"unix:{tmp_path / 's'}"
    settings = {"statsd_tags": "env:test", "workers": 2, "control_socket": str(tmp_path / "control")}
    with sock, launched(tmp_path, statsd=address, **settings) as server:
        heard = Heard(sock)
        for _ in range(10):
            assert server.ask(b"hello\n") == b"HELLO\n"
        admin = admin_of(server)
        if family == "udp":
            admin.kill()
            wait_for(lambda: admin_of(server, admin.pid))
        else:
            client.ask(str(tmp_path / "control"), {"command": "upgrade"}, 30)
            wait_for(lambda: not admin.is_running())
            assert heard.take()["pronghorn.messages"] == 10, "told at its end"
        for _ in range(5):
            assert server.ask(b"hello\n") == b"HELLO\n"
        client.ask(str(tmp_path / "control"), {"command": "stop"}, 30)
        wait_for(lambda: heard.take()["pronghorn.messages"] >= 15)
        sums = heard.take()
        assert sums["pronghorn.connections_accepted"] == sums["pronghorn.messages"] == 15
        assert sums["pronghorn.connection_duration"] == 15
        assert heard.longest <= MOST_BYTES and {"env:test", "reason:done"} <= heard.tags


def admin_of(server: Launched, before: int = 0) -> psutil.Process:
    def found() -> Any:
        for each in psutil.Process(server.pid).children():
            if each.pid != before and any(part.startswith("pronghorn.admin") for part in each.cmdline()):
                return each
        return False

    return wait_for(found)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_nobody_there_harms_nobody(tmp_path: Path) -> None:
    with launched(tmp_path, statsd=f"unix:{tmp_path}/nobody") as server:
        assert server.ask(b"hello\n") == b"HELLO\n"
        wait_for(
            lambda: f"cannot tell StatsD at unix:{tmp_path}/nobody (--statsd): No such file" in server.log, "a warning"
        )
        assert server.stop() == 0
        assert "ERROR" not in server.log, server.log
        assert server.log.count("cannot tell StatsD") == 1, "it is told once"


@pytest.mark.slow
def test_a_name_that_does_not_resolve_harms_nobody(tmp_path: Path) -> None:
    with launched(tmp_path, statsd="no.such.host.invalid:8125") as server:
        assert server.ask(b"hello\n") == b"HELLO\n"
        wait_for(lambda: "cannot tell StatsD at no.such.host.invalid:8125 (--statsd): " in server.log, "a warning")
        assert server.stop() == 0
        assert "ERROR" not in server.log, server.log
        assert server.log.count("cannot tell StatsD") == 1, "it is told once"


@pytest.mark.slow
def test_an_address_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    with launched(tmp_path, statsd="nowhere") as server:
        assert server.exit() == 2
        assert "--statsd is 'nowhere'" in server.log + str(server.report)


# OpenTelemetry.


@contextmanager
def receiver(bodies: list[bytes]) -> Iterator[str]:
    """An OTLP/HTTP server that keeps what it is sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.slow
def test_metrics_go_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    bodies: list[bytes] = []

    def sent() -> dict[str, Any]:
        """The newest of each metric."""
        found = {}
        for body in bodies:
            request = ExportMetricsServiceRequest.FromString(body)
            (of_resource,) = request.resource_metrics
            found["resource"] = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            found |= {each.name: each for each in of_resource.scope_metrics[0].metrics}
        return found

    with receiver(bodies) as url:
        for name, value in {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
            "OTEL_SERVICE_NAME": "shouting",
        }.items():
            monkeypatch.setenv(name, value)
        with launched(tmp_path, otel=True) as server:
            wait_for(lambda: bodies)
            for _ in range(7):
                assert server.ask(b"hello\n") == b"HELLO\n"
            assert server.stop() == 0
    found = sent()
    assert found["resource"]["service.name"] == "shouting"
    assert found["resource"]["deployment.environment"] == "test"
    accepted = found["pronghorn_connections_accepted"].sum
    assert accepted.is_monotonic and [each.as_double or each.as_int for each in accepted.data_points] == [7]
    (duration,) = found["pronghorn_connection_duration_seconds"].histogram.data_points
    assert (duration.count, sum(duration.bucket_counts)) == (7, 7)
    assert found["pronghorn_connection_duration_seconds"].unit == "s"
    assert len(duration.bucket_counts) == len(duration.explicit_bounds) + 1
