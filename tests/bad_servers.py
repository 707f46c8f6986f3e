"""Servers that are wrong in one way each: what the ledger's detectors are shown to fail against.

Law: plain Python, as one writes it who knows no better, or not yet; each fault is a few lines under its name. They
speak the ledger's protocol, keep its books, and take TERM and HUP as Pronghorn does, so that every trial can be run
against them: `python tests/bad_servers.py FAULT`. Without a fault (`none`) the trials pass, all but R3c: none of
these servers knows whether a new worker is ready.

    closes-first    HUP: the listener is closed and opened anew
    old-first       HUP: the old workers leave before the new ones are ready
    resets          TERM, HUP: workers leave at once, whatever their clients are doing
    zombies         dead workers are replaced and never waited for
    one-dies-all    one killed worker takes the others with it
    unread          replies, and closes with unread input
    drops           every 5th reply lacks a byte
    twice           every 5th reply comes twice
    forgets         every 5th connection has no end in the book
    reuseport       each worker has a listener of its own; HUP closes them
    spins           no descriptor left: tries again at once, and says so; it has one worker
    leaks           HUP: the supervisor keeps a descriptor each time
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pronghorn

LOADED = (pronghorn.message, pronghorn.Protocol)  # what takes time to import; each worker imports the ledger's handler
FAULT = sys.argv[1] if len(sys.argv) > 1 else "none"
WORKERS = 1 if FAULT == "spins" else 4


def log(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def listening(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if FAULT == "reuseport":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    sock.settimeout(0.05)
    return sock


# A worker: a thread for every client.


class Worker:
    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.leaving = False
        self.threads: list[threading.Thread] = []
        self.count = 0

    def run(self) -> None:
        from ledger_handler import Conversation

        self.conversation = Conversation
        signal.signal(signal.SIGTERM, self.leave)
        log(f"Worker is ready, process id {os.getpid()}")
        while not self.leaving:
            self.accept()
        self.listener.settimeout(0)
        while FAULT != "reuseport" and self.accept():  # those that are in the queue were promised a server
            pass
        self.listener.close()
        for thread in self.threads:
            thread.join()
        os._exit(0)

    def leave(self, *_: object) -> None:
        if FAULT == "resets":
            os._exit(0)
        self.leaving = True

    def accept(self) -> bool:
        try:
            sock, peer = self.listener.accept()
        except OSError as error:  # nobody came
            if FAULT == "spins" and not isinstance(error, TimeoutError):
                log(error)
            return False
        sock.settimeout(None)
        self.count += 1
        thread = threading.Thread(target=self.serve, args=(sock, peer, self.count), daemon=True)
        thread.start()
        self.threads = [each for each in self.threads if each.is_alive()] + [thread]
        return True

    def serve(self, sock: socket.socket, peer: Any, number: int) -> None:
        conversation = self.conversation(peer)
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(100 if FAULT == "unread" else 65536):
                replies = conversation.replies(data)
                if FAULT == "drops" and number % 5 == 0:
                    replies = replies[:5] + replies[6:]
                if FAULT == "twice" and number % 5 == 0:
                    replies = replies * 2
                sock.sendall(replies)
                if FAULT == "unread" and number % 5 == 0:
                    break
        if FAULT != "forgets" or number % 5:
            conversation.end()


# The supervisor.


class Supervisor:
    def __init__(self) -> None:
        self.listener = listening(0)
        self.port = self.listener.getsockname()[1]
        self.workers: set[int] = set()
        self.kept: list[int] = []
        self.stopping = False
        self.reload = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGHUP, self.hup)
        self.fill()
        if FAULT == "reuseport":
            time.sleep(0.5)  # they have listeners of their own by now
            self.listener.close()
        log(f"Listening at: tcp://127.0.0.1:{self.port}")
        log("Now Serving in a bad way:", FAULT)
        while not self.stopping:
            time.sleep(0.01)
            self.reap()
            if self.reload:
                self.reload = False
                self.renew()
            self.fill()
        log("Draining")
        self.listener.close()
        self.end(self.workers)
        self.wait(self.workers)

    def stop(self, *_: object) -> None:
        self.stopping = True

    def hup(self, *_: object) -> None:
        self.reload = True

    def fill(self) -> None:
        while len(self.workers) < WORKERS:
            self.spawn()

    def spawn(self) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                if FAULT == "old-first":
                    time.sleep(3)  # as long as an import may take
                sys.path.insert(0, os.getcwd())
                with contextlib.suppress(ModuleNotFoundError):
                    __import__("mine")
                Worker(listening(self.port) if FAULT == "reuseport" else self.listener).run()
            finally:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.workers.add(pid)

    def reap(self) -> None:
        for pid in list(self.workers):
            if FAULT == "zombies":
                with open(f"/proc/{pid}/stat") as file:
                    dead = file.read().rpartition(")")[2].split()[0] == "Z"
                status = 9
            else:
                found, status = os.waitpid(pid, os.WNOHANG)
                dead = found != 0
            if dead:
                self.workers.discard(pid)
                if FAULT == "one-dies-all" and status:
                    self.end(self.workers, signal.SIGKILL)
                    self.wait(self.workers)
                    return

    def renew(self) -> None:
        old = set(self.workers)
        if FAULT == "leaks":
            self.kept.append(os.open("/dev/null", os.O_RDONLY))
        if FAULT == "closes-first":
            self.end(old)
            self.listener.close()
            self.wait(old)
            self.listener = listening(self.port)
        elif FAULT == "old-first":
            self.end(old)
        new = self.start_new()
        if FAULT not in ("closes-first", "old-first"):
            time.sleep(0.1)
            self.end(old)
        self.workers = new
        self.wait(old)
        log("Reloaded")

    def start_new(self) -> set[int]:
        self.workers = set()
        self.fill()
        return self.workers

    def end(self, pids: set[int], number: signal.Signals = signal.SIGTERM) -> None:
        for pid in pids:
            os.kill(pid, number)

    def wait(self, pids: set[int]) -> None:
        while pids:
            pids -= {pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0]}
            time.sleep(0.01)


main: Callable[[], None] = lambda: Supervisor().run()  # noqa: E731

if __name__ == "__main__":
    main()
