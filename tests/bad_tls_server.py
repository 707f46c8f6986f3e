"""A TLS server that is wrong in one way: what the detectors of line_trials.py are shown to fail against.

Law: plain Python, that speaks the ledger's protocol: `python tests/bad_tls_server.py FAULT`, with server.pem and
server.key in the working folder. HUP has it read them anew.

    late    says that it has reloaded, and does so a while later
    fails   closes every 20th connection in the handshake
    old     speaks every version of TLS that there is, and lets its clients renegotiate
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
import warnings

sys.path.insert(0, os.path.dirname(__file__))

from ledger_handler import Conversation

FAULT = sys.argv[1]
ALLOW_CLIENT_RENEGOTIATION = 1 << 8  # of OpenSSL 3; Python has no name for it
warnings.simplefilter("ignore")


def log(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def made() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("server.pem", "server.key")
    if FAULT == "old":
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.options |= ALLOW_CLIENT_RENEGOTIATION
    return context


class Server:
    def __init__(self) -> None:
        self.context = made()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def run(self) -> None:
        signal.signal(signal.SIGHUP, self.hup)
        log(f"Listening at: tls://127.0.0.1:{self.listener.getsockname()[1]}")
        log("Now Serving in a bad way:", FAULT)
        number = 0
        while True:
            sock, peer = self.listener.accept()
            number += 1
            if FAULT == "fails" and number % 20 == 0:
                sock.close()
                continue
            threading.Thread(target=self.serve, args=(sock, peer), daemon=True).start()

    def hup(self, *_: object) -> None:
        if FAULT == "late":
            threading.Timer(0.3, self.renew).start()
        else:
            self.renew()
        log("Reloaded in no time")

    def renew(self) -> None:
        self.context = made()

    def serve(self, plain: socket.socket, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError), self.context.wrap_socket(plain, server_side=True) as sock:
            conversation = Conversation(peer)
            try:
                while data := sock.recv(65536):
                    sock.sendall(conversation.replies(data))
            finally:
                conversation.end()
            sock.unwrap()


if __name__ == "__main__":
    Server().run()
