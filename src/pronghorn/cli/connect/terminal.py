"""The client on a terminal: a line typed is a line sent, and replies are shown as they come.

Law: what a server sends is shown, never obeyed: control characters appear as `\\x1b`, so that no server can drive a
user's terminal. With prompt_toolkit the line being typed stays whole below the replies; without prompt_toolkit,
readline edits the line, and a thread draws the line again after each reply.
"""

from __future__ import annotations

import codecs
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from pronghorn.errors import printable

CLOSED = "the other side has been closed"
PROMPT = "> "
CHUNK = 64 * 1024
# How long half a line may wait for its other half before it is shown as it is, in seconds.
PATIENCE = 0.1


def talk(connection: socket.socket, address: str) -> int:
    """Hold the conversation; returns the exit status."""
    print(f"Connected to {address}. Ctrl-D closes your side.", flush=True)
    try:
        import asyncio

        import prompt_toolkit  # noqa: F401
    except ImportError:
        return _with_readline(connection)
    return asyncio.run(_with_toolkit(connection))


class Screen:
    """Bytes as a person can read them: whole lines at once, half a line when no more comes."""

    def __init__(self, write: Callable[[str], Any]) -> None:
        self.write = write
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.partial = ""

    def feed(self, piece: bytes) -> None:
        """Show the lines that `piece` completes; the rest waits in `partial`."""
        text = self.partial + self.decoder.decode(piece).replace("\r\n", "\n")
        lines, mark, self.partial = text.rpartition("\n")
        if mark:
            self._show(lines)

    def flush(self) -> None:
        """Show the half line that waits."""
        if self.partial:
            self._show(self.partial)
            self.partial = ""

    def _show(self, text: str) -> None:
        self.write(printable(text, len(text), kept="\n\t") + "\n")

    def end(self, error: OSError | None = None) -> int:
        """Show the rest, and that the connection has ended; returns the exit status."""
        self.partial += self.decoder.decode(b"", final=True)
        self.flush()
        self.write(f"{CLOSED} ({error.strerror})\n" if error else f"{CLOSED}\n")
        return 1 if error else 0


def half_close(connection: socket.socket) -> None:
    """End the sending half."""
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the connection is gone, and recv() will say why


async def _with_toolkit(connection: socket.socket) -> int:
    import asyncio

    from prompt_toolkit import PromptSession
    from prompt_toolkit.patch_stdout import patch_stdout

    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    session: PromptSession[str] = PromptSession(PROMPT, history=_history())
    with patch_stdout():
        screen = Screen(_write)
        ended = _shown(loop, connection, screen)
        try:
            while not ended.done():
                typing = asyncio.ensure_future(session.prompt_async())
                await asyncio.wait({typing, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not typing.done():
                    typing.cancel()
                    await asyncio.wait({typing})
                    break
                await loop.sock_sendall(connection, typing.result().encode() + b"\n")
        except EOFError:
            half_close(connection)
        except OSError:
            pass  # the server takes no more; its last bytes are still to be shown
        return screen.end(await ended)


def _shown(loop: Any, connection: socket.socket, screen: Screen) -> Any:
    """Shows all that arrives from now on; the future is done, with the error or None, when the server has closed."""
    ended = loop.create_future()
    timer: list[Any] = []

    def on_readable() -> None:
        while timer:
            timer.pop().cancel()
        try:
            piece, error = connection.recv(CHUNK), None
        except BlockingIOError:
            return
        except OSError as broken:
            piece, error = b"", broken
        if not piece:
            loop.remove_reader(connection)
            ended.set_result(error)
            return
        screen.feed(piece)
        timer.append(loop.call_later(PATIENCE, screen.flush))

    loop.add_reader(connection, on_readable)
    return ended


def _history() -> Any:
    """A file of the user's own when it can be written, memory otherwise."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = os.path.join(state, "pronghorn", "connect-history")
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class Ended(Exception):
    """Raised in the main thread, to leave input(), when the other side has closed."""


class Reader(threading.Thread):
    """Shows what arrives while the main thread waits in input()."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self.connection = connection
        self.screen = Screen(self._write_above)
        self.prompting = True
        self.left = threading.Event()
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self._show_all()
        except OSError as error:
            self.error = error
        # Once is not enough: a signal that comes just before input() waits is seen only at the next key.
        while self.prompting and not self.left.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            self.left.wait(PATIENCE)

    def _show_all(self) -> None:
        while True:
            ready, _, _ = select.select([self.connection], [], [], PATIENCE if self.screen.partial else None)
            if not ready:
                self.screen.flush()
                continue
            piece = self.connection.recv(CHUNK)
            if not piece:
                return
            self.screen.feed(piece)

    def _write_above(self, text: str) -> None:
        if not self.prompting:
            _write(text)
            return
        readline = sys.modules.get("readline")
        typed = readline.get_line_buffer() if readline else ""
        _write(f"\r\033[K{text}{PROMPT}{typed}")


def _with_readline(connection: socket.socket) -> int:
    try:
        import readline  # noqa: F401  (input() edits lines once it is imported)
    except ImportError:
        pass

    reader = Reader(connection)

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        reader.left.set()
        raise Ended

    signal.signal(signal.SIGUSR1, leave)
    reader.start()
    try:
        while True:
            connection.sendall(input(PROMPT).encode() + b"\n")
    except (EOFError, Ended):
        reader.prompting = False
        print()
        half_close(connection)
    except OSError:
        reader.prompting = False
    reader.join()
    return reader.screen.end(reader.error)
