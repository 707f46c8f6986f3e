"""A notebook in a database that each worker opens once: `put NAME TEXT` and `get NAME`.

    pronghorn serve examples/notebook.py:handler --workers 2

The lifespan is entered in each worker before it is ready, and left after its drain: a database that cannot be opened
is told at the start, and not to the first client. The file is NOTEBOOK from the environment, else notebook.sqlite.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pronghorn


def database() -> Iterator[sqlite3.Connection]:
    path = os.environ.get("NOTEBOOK", "notebook.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT)")
        yield opened


@pronghorn.lifespan(database)
@pronghorn.message(pronghorn.lines)
def handler(line: bytes, conn: pronghorn.MessageConnection) -> bytes:
    notes = conn.lifespan  # what database() yielded in this worker
    match line.decode().split(" ", 2):
        case ["put", name, text]:
            notes.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, text))
            return b"noted"
        case ["get", name]:
            row = notes.execute("SELECT text FROM notes WHERE name = ?", (name,)).fetchone()
            return row[0].encode() if row else b"nothing"
        case _:
            return b"put NAME TEXT, or get NAME"
