"""The recipes of docs/observers.md for Sentry and OpenTelemetry: their code as it stands there, with what they send to
a server of HTTP here."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from launch import launched, wait_for

PAGE = Path(__file__).parents[1] / "docs" / "observers.md"
MINE = """
import pronghorn
from opentelemetry import trace
from tracing import traced

@pronghorn.message(pronghorn.lines)
@traced
def handler(line, conn):
    with trace.get_tracer("mine").start_as_current_span("inner"):
        if line == b"fail":
            raise ValueError("bad order")
        return line.upper()
"""


def recipe(name: str) -> str:
    """The block of code of the page that begins with the name of a file."""
    found = re.search(rf"```python\n(# {re.escape(name)}\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1]


class Received:
    """What was posted, by path."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes]] = []

        class Post(BaseHTTPRequestHandler):
            def do_POST(post) -> None:
                body = post.rfile.read(int(post.headers["Content-Length"]))
                if post.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self.posts.append((post.path, body))
                post.send_response(200)
                post.send_header("Content-Length", "0")
                post.end_headers()

            def log_message(post, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def envelopes(self) -> list[dict[str, Any]]:
        """The events in Sentry's envelopes: of each a line of its own, behind one with its type."""
        found = []
        for path, body in self.posts:
            if path == "/api/1/envelope/":
                lines = body.splitlines()
                found += [json.loads(after) for line, after in itertools.pairwise(lines) if b'"event"' in line]
        return found

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        found = []
        for path, body in self.posts:
            if path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def received() -> Iterator[Received]:
    one = Received()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        thread.join()
        one.server.server_close()


@pytest.mark.slow
def test_the_recipes_for_sentry_and_opentelemetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: Received
) -> None:
    pytest.importorskip("sentry_sdk")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    for name in ("sentry.py", "tracing.py"):
        (tmp_path / name).write_text(recipe(name))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("SENTRY_DSN", f"http://key@{received.address}/1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{received.address}")
    observers = ("sentry.py:Sentry", "tracing.py:Spans")
    with launched(tmp_path, "mine.py:handler", observer=observers, workers=1, model="epoll") as server:
        server.ready()
        with server.connect() as sock:
            host, port = sock.getsockname()
            sock.sendall(b"fail\n")
            assert sock.recv(100) == b""
        assert server.ask(b"hello\n") == b"HELLO\n"
        event = wait_for(lambda: next(iter(received.envelopes()), False), "an event for Sentry")
        assert server.stop() == 0
    (raised,) = event["exception"]["values"]
    assert (raised["type"], raised["value"]) == ("ValueError", "bad order")
    assert raised["stacktrace"]["frames"][-1]["function"] == "handler"
    assert re.fullmatch(r"\d+-1", event["tags"]["connection"])
    assert event["tags"]["peer"] == str((host, port))
    spans = received.spans()  # the last of them were sent at the end of the worker
    assert sorted(each.name for each in spans) == ["connection", "connection", "inner", "inner", "message", "message"]
    parents = {each.span_id: each for each in spans}
    for each in spans:
        above = {"inner": "message", "message": "connection"}.get(each.name)
        assert (parents[each.parent_span_id].name if each.parent_span_id else None) == above
        assert len([other for other in spans if other.trace_id == each.trace_id]) == 3
    assert "left out for 10 s" not in server.log
