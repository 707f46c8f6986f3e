"""An observer that keeps connections in a database (SQLite): one row for each, at its end.

    pronghorn serve examples/observer.py:handler --observer examples/observer.py:Connections
    sqlite3 connections.db 'SELECT peer, seconds, bytes_in, reason FROM connections'

Each worker makes an observer of its own, and so does the process that hears of workers: both write to one file, which
SQLite allows. An observer is called on the worker's loop; so the rows are written by a thread.
"""

import os
import queue
import sqlite3
import threading

import pronghorn
from pronghorn import events

DATABASE = os.environ.get("CONNECTIONS_DB", "connections.db")


@pronghorn.message(pronghorn.lines)
def handler(line: bytes) -> bytes:
    return line.upper()


class Connections(pronghorn.Observer):
    hears = (events.ConnectionClosed, events.WorkerExited)  # no other event is made for this observer

    def __init__(self) -> None:
        self.forked()

    def forked(self) -> None:  # under the fork model: neither a thread nor a database survives a fork
        self.rows: queue.SimpleQueue[tuple[str, tuple[object, ...]] | None] = queue.SimpleQueue()
        self.writer = threading.Thread(target=self.write, daemon=True)
        self.writer.start()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.ConnectionClosed):
            row = event.id, str(event.peer), event.seconds, event.bytes_in, event.bytes_out, event.reason
            self.rows.put(("INSERT INTO connections VALUES (?, ?, ?, ?, ?, ?)", row))
        elif isinstance(event, events.WorkerExited) and not event.wanted:
            self.rows.put(("INSERT INTO deaths VALUES (?, ?)", (event.pid, event.status)))

    def close(self) -> None:
        self.rows.put(None)
        self.writer.join()

    def write(self) -> None:
        database = sqlite3.connect(DATABASE, isolation_level=None, timeout=10)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS connections (id, peer, seconds, bytes_in, bytes_out, reason)")
        database.execute("CREATE TABLE IF NOT EXISTS deaths (pid, status)")
        for statement, row in iter(self.rows.get, None):
            database.execute(statement, row)
        database.close()
