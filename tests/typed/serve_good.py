"""Calls of serve and serving that are right."""

import pronghorn
from pronghorn.testing import FakeTransport, Served, check_handler, serving


def shout(line: bytes) -> bytes:
    return line.upper()


handler = pronghorn.message(pronghorn.lines)(shout)

pronghorn.serve()
pronghorn.serve("module:name", config="pronghorn.toml")
pronghorn.serve(handler, bind="127.0.0.1:8000", model="epoll", workers=2, drain_timeout=5)
pronghorn.serve(handler, bind=["127.0.0.1:8000", "unix:/run/mine.sock"], idle_timeout="2m", max_message_size="64KiB")
listener = pronghorn.Listener(name="plain", bind=":5000", tls="off", idle_timeout="2m", handler=shout)
pronghorn.serve(handler, bind=":5001", tls_cert="cert.pem", listeners=[listener, {"bind": ":5002", "exec": ["cat"]}])

with serving(handler, model="thread", log_level="debug") as server:
    address: tuple[str, int] | str = server.address
    status: int = server.stop()


with serving(["tr", "a-z", "A-Z"]) as server:
    print(server.log())

check_handler("module:name", b"hello\n", b"HELLO\n", model="thread")
transport = FakeTransport(pronghorn.Protocol(), peer="/run/mine.sock")
transport.receive(b"hello")
written: bytes = transport.take()


def ask(served: Served) -> bytes:
    with served.connect(timeout=5) as client:
        client.sendall(b"hello\n")
        return client.recv(100)


def name_of(settings: pronghorn.Settings) -> str:
    return settings.name
