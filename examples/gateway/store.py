"""The gateway's memory, a file of sqlite: devices, positions, and commands; all workers share it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable

TABLES = """
CREATE TABLE IF NOT EXISTS device (id TEXT PRIMARY KEY, owner TEXT, peer TEXT);
CREATE TABLE IF NOT EXISTS position (device TEXT, number INTEGER, lat REAL, lon REAL, PRIMARY KEY (device, number));
CREATE TABLE IF NOT EXISTS command (id INTEGER PRIMARY KEY, device TEXT, text TEXT, sent REAL, done INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS open_commands ON command (device) WHERE NOT done;
"""


class Store:
    """One connection to the file, which all threads of a worker may use."""

    def __init__(self, path: str = "") -> None:
        path = path or os.environ.get("GATEWAY_DB", "gateway.db")
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.executescript(TABLES)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._db.close()

    def _do(self, sql: str, *values: object) -> list[tuple]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def online(self, device: str, owner: str, peer: str) -> None:
        """`owner` names the connection that the device has now."""
        self._do("INSERT OR REPLACE INTO device VALUES (?, ?, ?)", device, owner, peer)

    def offline(self, device: str, owner: str) -> None:
        """That connection has ended; the device may have come anew meanwhile, to another worker perhaps."""
        self._do("UPDATE device SET owner = NULL WHERE id = ? AND owner = ?", device, owner)

    def devices(self) -> list[tuple[str, bool]]:
        return [(name, bool(online)) for name, online in self._do("SELECT id, owner NOT NULL FROM device ORDER BY id")]

    def add_position(self, device: str, number: int, lat: float, lon: float) -> None:
        """A device that got no acknowledgement sends the same again: once is enough."""
        self._do("INSERT OR IGNORE INTO position VALUES (?, ?, ?, ?)", device, number, lat, lon)

    def positions(self, device: str) -> list[tuple[int, float, float]]:
        return self._do("SELECT number, lat, lon FROM position WHERE device = ? ORDER BY number", device)

    def add_command(self, device: str, text: str) -> int:
        return self._do("INSERT INTO command (device, text) VALUES (?, ?) RETURNING id", device, text)[0][0]

    def to_send(self, owners: Iterable[str], again_after: float) -> list[tuple[int, str, str]]:
        """Commands for devices that these connections have: number, device and text of each that was not sent yet, or
        not answered within so many seconds. They count as sent now."""
        ours, now = set(owners), time.time()
        found = self._do(
            "SELECT command.id, device.id, text, owner FROM command JOIN device ON device.id = command.device "
            "WHERE NOT done AND (sent IS NULL OR sent < ?) ORDER BY command.id",
            now - again_after,
        )
        mine = [(number, device, text) for number, device, text, owner in found if owner in ours]
        for number, _, _ in mine:
            self._do("UPDATE command SET sent = ? WHERE id = ?", now, number)
        return mine

    def done(self, command: int, device: str) -> None:
        self._do("UPDATE command SET done = 1 WHERE id = ? AND device = ?", command, device)

    def state(self, command: int) -> str:
        found = self._do("SELECT done, sent NOT NULL FROM command WHERE id = ?", command)
        return "unknown" if not found else "done" if found[0][0] else "sent" if found[0][1] else "waiting"
