"""Writes docs/settings.md, from the fields of Settings: `make docs`. A test wants to see that it is up to date."""

from __future__ import annotations

import re
from pathlib import Path

from pronghorn.settings import fields
from pronghorn.settings.fields import RESTART, Field

LATER, OWN = " *At a restart.*", " *Each listener.*"

UNITS = re.compile(r" \([^()]*; a plain number is [a-z]+\)")  # the head says it once
PAGE = Path(__file__).with_name("settings.md")
HEAD = """\
# Settings

<!-- Made by `make docs`; what stands here is said in src/pronghorn/settings/ -->

Each setting has one name, and five places where it can be given. For `max_threads` these are

| where | written as |
|---|---|
| the command line of `serve`, `check` and `config` | `--max-threads 50` |
| the environment | `PRONGHORN_MAX_THREADS=50` |
| a settings file, [`pronghorn.toml`](operations.md#settings) | `max-threads = 50` or `max_threads = 50` |
| a script | `pronghorn.serve(..., max_threads=50)` |
| nowhere | the default |

The upper ones win. What is on or off is `--reuse-port` or `--no-reuse-port` on the command line, `true` or `false` in
a file, and `yes` or `no` in the environment. What may be given more than once is a list in a file, and separated by
commas in the environment; networks, names and modules may be so everywhere. A duration is `500ms`, `30s`, `2m`, `1h`,
or a number of seconds; a size is `64KiB`, `1MiB`,
`10MB`, or a number of bytes.

A [reload](operations.md#reloading) gives new values to the workers that it starts, and to the listeners that stay;
what is marked *At a restart* stays as it was until the server is started again or upgraded, and the reload says so.

What is marked *Each listener* may have another value for [one listener](listeners.md).
"""


def page() -> str:
    """The whole page."""
    panels: dict[str, list[Field]] = {}
    for field in fields():
        panels.setdefault(field.panel, []).append(field)
    return HEAD + "".join(f"\n## {panel}\n\n{table(group)}" for panel, group in panels.items())


def table(group: list[Field]) -> str:
    cells = []
    for field in group:
        flags = ", ".join(f"`{flag}`" for flag in (field.flag, field.short) if flag)
        default = field.shown(field.default)
        takes = UNITS.sub("", field.takes)
        words = cell(field.help) + (LATER if field.at == RESTART else "") + (OWN if field.own else "")
        cells.append((flags, cell(takes), f"`{default}`" if default else "", words))
    return rows(("setting", "takes", "default", "is"), *cells)


def rows(head: tuple[str, ...], *cells: tuple[str, ...]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(each)} |\n" for each in (head, ("---",) * len(head), *cells)).replace(" --- ", "---")


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
