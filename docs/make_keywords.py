"""Writes src/pronghorn/settings/keywords.py, from the fields of Settings: `make docs`. A test compares the two."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pronghorn.settings import fields
from pronghorn.settings.fields import Field

FILE = Path(__file__).parent.parent / "src" / "pronghorn" / "settings" / "keywords.py"
HEAD = '''\
"""The keywords of `pronghorn.serve` for type checkers: each setting, and what may be given for it.

Law: made by `make docs` from the fields of Settings. Nothing imports this file while a server runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypedDict


class Listener(TypedDict, total=False):
    """A listener with settings of its own, for `listeners` of `pronghorn.serve`; the rest is as for the server.
    `handler` is a name as the command takes it, or the handler itself; `exec` is a program and its arguments."""

    name: str
    bind: str | Iterable[str]
    handler: str | Callable[..., object]
    exec: str | Iterable[str]
'''
BETWEEN = '''

class Keywords(TypedDict, total=False):
    """Each setting as a keyword. A duration or a size may be a text with a unit (`30s`, `64KiB`)."""

    listeners: Iterable[Listener]
'''
WIDTH = 120


def source() -> str:
    """The whole file."""
    own = [each for each in fields() if each.own]
    return HEAD + "".join(map(line, own)) + BETWEEN + "".join(map(line, fields()))


def line(field: Field) -> str:
    """One keyword, written as ruff formats it."""
    types = f"Literal[{', '.join(map(quoted, field.choices))}]" if field.choices else written(field.type, field.unit)
    whole = f"    {field.name}: {types}\n"
    if len(whole) <= WIDTH + 1:
        return whole
    inside = f"        {', '.join(map(quoted, field.choices))}"
    if len(inside) > WIDTH:
        inside = ",\n".join(f"        {quoted(each)}" for each in field.choices) + ","
    return f"    {field.name}: Literal[\n{inside}\n    ]\n"


def written(type: Any, unit: str = "") -> str:
    """What may be given for a value of this type."""
    if get_origin(type) in (Union, UnionType):
        return " | ".join(dict.fromkeys(" | ".join(written(each, unit) for each in get_args(type)).split(" | ")))
    if get_origin(type) is Literal:
        return f"Literal[{', '.join(map(quoted, get_args(type)))}]"
    if type == tuple[str, ...]:
        return "str | Iterable[str]"
    if type in (int, float) and unit:
        return f"{type.__name__} | str"
    return "None" if type is NoneType else getattr(type, "__name__", repr(type))


def quoted(text: str) -> str:
    return f'"{text}"'


if __name__ == "__main__":
    FILE.write_text(source())
