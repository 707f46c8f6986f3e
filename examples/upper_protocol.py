"""The upper-case service as a pronghorn.Protocol: callbacks that react and never wait.

    pronghorn serve examples/upper_protocol.py:handler

It runs under every model, because it uses nothing but its transport.
"""

import pronghorn


class Upper(pronghorn.Protocol):
    def connection_made(self, transport: pronghorn.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())


handler = Upper
