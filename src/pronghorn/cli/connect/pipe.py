"""The client in a pipe: standard input to the server, its replies to standard output, byte for byte.

Law: one loop waits for both directions, and nothing in the loop may block: a client that first sends and then reads
stands still for ever with a server that answers as it reads, once the buffers between them are full. The standard
streams are shared with other processes, so this file never makes them non-blocking: it reads or writes a stream when
select(2) says so, and a pipe that is writable takes PIPE_BUF bytes without waiting (POSIX, write(2)).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat

from pronghorn.errors import PronghornError

CHUNK = 64 * 1024
BACKLOG = 4 * CHUNK


class ConversationBroken(PronghornError):
    """The conversation ended before its time."""


class Pipe:
    """Both directions of one conversation, each with a bounded buffer between its two ends."""

    def __init__(self, connection: socket.socket, source: int = 0, sink: int = 1) -> None:
        self.connection = connection
        self.source = source
        self.sink = sink
        self.to_server = bytearray()
        self.to_sink = bytearray()
        self.reading_source = True
        self.sending = True
        self.receiving = True
        self.failure: ConversationBroken | None = None
        mode = os.fstat(sink).st_mode
        self.portion = CHUNK if stat.S_ISREG(mode) else select.PIPE_BUF

    def run(self) -> None:
        """Copy until the server has closed its half and all its bytes are written to the sink.

        Raises BrokenPipeError when nobody reads the sink any more; any other error is in `failure` afterwards.
        """
        self.connection.setblocking(False)
        while self.receiving or self.to_sink:
            self._turn()

    def _turn(self) -> None:
        readers: list[int | socket.socket] = []
        writers: list[int | socket.socket] = []
        if self.receiving and len(self.to_sink) < BACKLOG:
            readers.append(self.connection)
        if self.reading_source and len(self.to_server) < BACKLOG and self.receiving:
            readers.append(self.source)
        if self.to_sink:
            writers.append(self.sink)
        if self.to_server and self.sending:
            writers.append(self.connection)
        readable, writable, _ = select.select(readers, writers, [])
        if self.sink in writable:
            self._write_sink()
        if self.connection in readable:
            self._receive()
        if self.source in readable:
            self._read_source()
        if self.connection in writable:
            self._send()

    def _write_sink(self) -> None:
        try:
            del self.to_sink[: os.write(self.sink, self.to_sink[: self.portion])]
        except BlockingIOError:
            return

    def _receive(self) -> None:
        try:
            piece = self.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.failure = ConversationBroken("The connection broke.", f"{error.strerror}.")
            piece = b""
        if not piece:
            self.receiving = False
        self.to_sink += piece

    def _read_source(self) -> None:
        try:
            piece = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self.failure = ConversationBroken("Standard input cannot be read.", f"{error.strerror}.")
            piece = b""
        self.to_server += piece
        if not piece:
            self.reading_source = False
            self._half_close_when_sent()

    def _send(self) -> None:
        try:
            del self.to_server[: self.connection.send(self.to_server[:CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            # The server takes no more: read what it has sent before, and why it ended.
            self._stop_sending()
        self._half_close_when_sent()

    def _stop_sending(self) -> None:
        self.sending = self.reading_source = False
        self.to_server.clear()

    def _half_close_when_sent(self) -> None:
        if self.sending and not self.reading_source and not self.to_server:
            self.sending = False
            try:
                self.connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it is closed already


def talk(connection: socket.socket) -> int:
    """Hold the conversation; returns the exit status, that of SIGPIPE if nobody reads standard output any more."""
    pipe = Pipe(connection)
    try:
        pipe.run()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    if pipe.failure:
        raise pipe.failure
    return 0
