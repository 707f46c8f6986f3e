"""Listeners with settings of their own: the tables `[[listener]]`, and what stands behind an address of `--bind`.

Law: a listener's settings are plain values in a flat dict, checked one by one, as in the settings file: `name`, `bind`,
`handler` or `exec`, and any setting whose field says that a listener may have its `own`. What they mean together with
those of the server is decided in services.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pronghorn.errors import BadSetting, nearest
from pronghorn.settings.fields import Field
from pronghorn.settings.source import Source
from pronghorn.settings.values import checked

NAME, BIND, HANDLER, EXEC = "name", "bind", "handler", "exec"
LISTENERS = "listeners"  # the key of a script, and of Settings
TABLE = "listener"  # the key of a settings file
FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BEHIND = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9_-]*=)(?![^()]*\))")  # a comma, not in brackets, and then KEY=
TEXTS = 'Write bind = ":5001", or a list of such addresses.'


def checked_all(raw: Any, known: Mapping[str, Field], where: str) -> tuple[dict[str, Any], ...]:
    """The listeners of a settings file, or of a script, checked; `where` names that for messages. Raises BadSetting."""
    if isinstance(raw, Mapping):
        raise BadSetting(f"{where} is one table.", "There may be several.", "Write [[listener]] above each.")
    if not isinstance(raw, Iterable) or isinstance(raw, str):
        raise BadSetting(f"{where} cannot be {raw!r}.", "It takes a list of tables.", "Write [[listener]] above each.")
    made = tuple(_checked(each, known, where, place) for place, each in enumerate(raw, 1))
    names = [each[NAME] for each in made if NAME in each]
    for name in names:
        if names.count(name) > 1:
            refuse_twice(name)
    return made


def refuse_twice(name: str) -> None:
    """Raises BadSetting: two listeners have one name."""
    why = "Log lines and counters could not tell them apart."
    raise BadSetting(f"Two listeners have the name {name!r}.", why, "Give one of them another name.")


def options_of(text: str, known: Mapping[str, Field], where: str = "--bind") -> tuple[str, dict[str, Any]]:
    """The address of one `--bind`, and the listener's own settings that stand behind it. Raises BadSetting."""
    address, *behind = BEHIND.split(text)
    raw: dict[str, Any] = {}
    for each in behind:
        key, _, value = each.partition("=")
        if key in raw:
            raise BadSetting(f"{where} gives {key} twice: {text!r}.", "", "Leave one of them out.")
        raw[key] = value
    if not raw:
        return address, {}
    return address, _checked({**raw, BIND: address}, known, where, 0)


def _checked(raw: Any, known: Mapping[str, Field], where: str, place: int) -> dict[str, Any]:
    """One listener; `place` counts from 1, and is 0 for what stands behind an address."""
    table = raw
    if not isinstance(table, Mapping):
        raise BadSetting(f"{where} cannot be {raw!r}.", "A listener is a table of settings.")
    made: dict[str, Any] = {}
    given = {key.replace("-", "_"): (key, value) for key, value in table.items()}
    if len(given) < len(table):
        raise BadSetting(f"{where} has a setting twice.", "A hyphen and an underscore are the same there.")
    title = f"{where}, listener {given[NAME][1] if NAME in given else place}" if place else where
    for name, (key, value) in given.items():
        origin = f"{key} of {title}"
        if name == NAME:
            made[name] = _name(value, origin)
        elif name == BIND:
            made[name] = _bind(value, origin)
        elif name in (HANDLER, EXEC):
            made[name] = value
        elif name in known and known[name].own:
            made[name] = checked(known[name], value, origin)
        else:
            raise _unknown(name, key, title, known)
    source_of(made, title)
    if BIND not in made and NAME not in made:
        raise BadSetting(f"{title} has no bind.", "It says where to listen.", TEXTS)
    return made


def _unknown(name: str, key: str, title: str, known: Mapping[str, Field]) -> BadSetting:
    if name in known:
        why = "It is one of the whole server."
        return BadSetting(f"{key} cannot be given in {title}.", why, "Write it above the tables, or on the line.")
    close = nearest(name, [NAME, BIND, HANDLER, EXEC, *(each.name for each in known.values() if each.own)])
    hint = close if close.startswith("Did") else f"{TEXTS} 'pronghorn serve --help' tells all settings."
    return BadSetting(f"There is no setting {key!r}, which stands in {title}.", hint=hint)


def _name(value: Any, origin: str) -> str:
    if not isinstance(value, str) or not FORM.fullmatch(value):
        why = "A listener's name has up to 64 letters, digits, dots, hyphens and underscores."
        raise BadSetting(f"{origin} cannot be {value!r}.", why)
    return value


def _bind(value: Any, origin: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not all(isinstance(each, str) and each for each in found) or (not found and (isinstance(value, str) or value)):
        raise BadSetting(f"{origin} cannot be {value!r}.", "It takes one address or more.", TEXTS)
    return found


def source_of(table: Mapping[str, Any], where: str) -> Source | None:
    """The handler that `handler` or `exec` names; None if neither is there. Raises BadSetting."""
    handler, command = table.get(HANDLER), table.get(EXEC)
    if handler is not None and command is not None:
        raise BadSetting(f"{where} has both handler and exec.", "There is one handler.", "Leave one of them out.")
    if handler is not None:
        if not isinstance(handler, str) or not handler:
            example = 'For example: handler = "module:name"'
            raise BadSetting(f"handler in {where} cannot be {handler!r}.", "It takes text.", example)
        return Source(name=handler)
    if command is None:
        return None
    words = _words(command) if isinstance(command, str) else command
    if not (isinstance(words, list | tuple) and words and all(isinstance(word, str) for word in words) and words[0]):
        example = 'For example: exec = ["tr", "a-z", "A-Z"]'
        raise BadSetting(f"exec in {where} cannot be {command!r}.", "It takes a command.", example)
    return Source(command=tuple(words))


def _words(command: str) -> list[str]:
    import shlex

    try:
        return shlex.split(command)
    except ValueError:
        return []  # a quote that is not closed
