"""Unit files of systemd, as tests read them: each line of a section, in its order; a key may come more than once."""

from __future__ import annotations

import shlex
from pathlib import Path

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


class UnitFile:
    """The assignments of one file."""

    def __init__(self, path: Path) -> None:
        self.lines: list[tuple[str, str, str]] = []
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif line and line[0] not in "#;":
                key, _, value = line.partition("=")
                self.lines.append((section, key, value))

    def all(self, key: str) -> list[str]:
        return [value for _, each, value in self.lines if each == key]

    def one(self, key: str) -> str:
        (value,) = self.all(key)
        return value

    def command(self, key: str, **specifiers: str) -> list[str]:
        """The words of ExecStart= or ExecReload=, with %i and its like replaced."""
        words = shlex.split(self.one(key))
        for name, value in specifiers.items():
            words = [each.replace(f"%{name}", value) for each in words]
        return words
