"""Prints the first part of tests/captures.py anew: what the clients of public libraries send, recorded from a socket.

    python -m venv V; V/bin/pip install hl7 pyiso8583 simplefix pymodbus redis rfc5424-logging-handler pynetstring
    V/bin/python tests/make_captures.py

The listener here only records, and answers just enough for the client to go on. Libraries that write bytes but no
sockets (pyiso8583, simplefix, pynetstring) are asked for the bytes.
"""

from __future__ import annotations

import logging
import logging.handlers
import pprint
import socket
import struct
import threading
from collections.abc import Callable

import hl7.client
import iso8583
import iso8583.specs
import pynetstring
import redis
import rfc5424logging
import simplefix
from pymodbus.client import ModbusTcpClient


def recorded(client: Callable[[int], object], answer: Callable[[bytes], bytes] = lambda data: b"") -> bytes:
    """What a client sends to a port, where each read gets the answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    got = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                got.append(data)
                connection.sendall(answer(data))

    thread = threading.Thread(target=serve)
    thread.start()
    client(listener.getsockname()[1])
    thread.join(10)
    listener.close()
    return b"".join(got)


MESSAGE = (
    "MSH|^~\\&|LAB|WARD 4|EHR|MAIN|20260301120000||ORU^R01|{0}|P|2.5\r"
    "PID|1||4711^^^MAIN||DOE^JANE\rOBX|1|NM|HR^heart rate||72|/min"
)


def mllp(port: int) -> None:
    with hl7.client.MLLPClient("127.0.0.1", port) as client:
        for number in (1, 2):
            client.send_message(MESSAGE.format(number))


def modbus(port: int) -> None:
    client = ModbusTcpClient("127.0.0.1", port=port)
    client.connect()
    client.read_holding_registers(0x10, count=2, device_id=17)
    client.write_register(1, 1234, device_id=17)
    client.close()


def modbus_answer(data: bytes) -> bytes:
    return data if data[7] == 6 else data[:4] + b"\0\7\x11\3\4\0\1\0\2"


def resp(port: int) -> None:
    client = redis.Redis("127.0.0.1", port, protocol=2)
    client.set("herd", b"12\r\n\0")
    client.get("herd")
    client.close()


def syslog(framing: int) -> Callable[[int], None]:
    def client(port: int) -> None:
        handler = rfc5424logging.Rfc5424SysLogHandler(
            ("127.0.0.1", port),
            socktype=socket.SOCK_STREAM,
            framing=framing,
            hostname="gate",
            appname="watch",
            procid=7,
        )
        log = logging.Logger("watch")
        log.addHandler(handler)
        log.warning("a gate is open")
        log.error("zwölf", extra={"msgid": "M1"})
        handler.close()

    return client


def syslog_of_python(port: int) -> None:
    handler = logging.handlers.SysLogHandler(("127.0.0.1", port), socktype=socket.SOCK_STREAM)
    log = logging.Logger("watch")
    log.addHandler(handler)
    log.warning("a gate is open")
    log.error("two\nlines")
    handler.close()


def iso_8583() -> bytes:
    both = b""
    for fields in (
        {"t": "0800", "11": "000001", "70": "301"},
        {"t": "0200", "2": "4000000000000002", "4": "000000001000"},
    ):
        raw, _ = iso8583.encode(dict(fields), iso8583.specs.default_ascii)
        both += struct.pack(">H", len(raw)) + raw
    return both


def fix() -> bytes:
    both = b""
    for number, kind in ((1, b"A"), (2, b"0")):
        message = simplefix.FixMessage()
        for tag, value in (
            (8, "FIX.4.4"),
            (35, kind),
            (49, "HERD"),
            (56, "DESK"),
            (34, number),
            (52, "20260301-12:00:00"),
        ):
            message.append_pair(tag, value)
        both += message.encode()
    return both


if __name__ == "__main__":
    captures = {
        "MLLP": recorded(mllp, lambda data: b"\x0bMSH|^~\\&|\rMSA|AA|1\x1c\r"),
        "MODBUS": recorded(modbus, modbus_answer),
        "RESP": recorded(resp, lambda data: b"$-1\r\n" if b"GET" in data else b"+OK\r\n"),
        "SYSLOG_COUNTED": recorded(syslog(rfc5424logging.FRAMING_OCTET_COUNTING)),
        "SYSLOG_LINES": recorded(syslog(rfc5424logging.FRAMING_NON_TRANSPARENT)),
        "SYSLOG_OF_PYTHON": recorded(syslog_of_python),
        "ISO_8583": iso_8583(),
        "FIX": fix(),
        "NETSTRINGS": pynetstring.encode(b"one") + pynetstring.encode(b"") + pynetstring.encode(b"t\0,:wo"),
    }
    for name, raw in captures.items():
        print(f"{name} = {pprint.pformat(raw, width=100)}")
