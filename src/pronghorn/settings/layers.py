"""Where settings come from: command line, environment, settings file, defaults, in this order.

Law: each value is stored as it was given, with its origin. The values are settled at the start, and again for each
reload, which reads the file anew. The file is found once: a reload reads the same path, whatever the working folder is
by then. TOML is read by the standard library's tomllib, imported when there is a file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from pronghorn.errors import BadSetting, nearest
from pronghorn.settings import Settings, fields, settle, unreadable
from pronghorn.settings.listeners import BIND, EXEC, HANDLER, LISTENERS, source_of
from pronghorn.settings.listeners import TABLE as LISTENER
from pronghorn.settings.services import services
from pronghorn.settings.source import Source

OWN_FILE = "pronghorn.toml"
PROJECT_FILE = "pyproject.toml"
TABLE = ("tool", "pronghorn")
DEFAULT = "default"


class Settled(msgspec.Struct, frozen=True):
    """Checked settings, and the handler's source; `origins` says where each setting, and `handler`, comes from."""

    settings: Settings
    source: Source
    origins: dict[str, str]


class Layers(msgspec.Struct, frozen=True):
    """What was given: `given` are plain values from the command line and the environment, `origins` say where each
    comes from (`--workers`, `PRONGHORN_WORKERS`). `source` is None if no handler was given. `file` is the absolute path
    of the settings file, or empty."""

    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    source: Source | None = None
    file: str = ""

    def settle(self) -> Settled:
        """The settings and the handler as they are now. Raises BadSetting, which names the origin of a wrong value."""
        values, places, named = read(self.file) if self.file else ({}, {}, None)
        origins = places | self.origins
        if BIND in self.given:  # where the file would listen counts no more; a --bind of the same name has the rest
            values[LISTENERS] = _without_addresses(values.get(LISTENERS, ()))
        settings = settle(values | self.given, origins)
        services(settings)
        source, origin = self.source, "command line"
        if source is None:
            source, origin = (named, os.path.basename(self.file)) if named is not None else (Source(), DEFAULT)
        everything = {field.name: origins.get(field.name, DEFAULT) for field in fields()}
        if settings.listeners:
            everything[LISTENERS] = origins.get(LISTENERS, LISTENERS)
        return Settled(settings, source, {HANDLER: origin} | everything)


def named_folder() -> str:
    """The working folder by the name that it was entered by, which may be a symbolic link (`current`, of releases):
    $PWD (POSIX, cd), if that leads here; else the name that the kernel has for it."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    return os.getcwd()


def absolute(path: str) -> str:
    """An absolute path, under the name that the working folder was entered by."""
    return path if os.path.isabs(path) else os.path.join(named_folder(), path)


def find(folder: str = ".") -> str:
    """The settings file of a folder: pronghorn.toml, or pyproject.toml if it has the table [tool.pronghorn]; an
    absolute path, or empty. Raises BadSetting if it cannot be read."""
    folder = named_folder() if folder == "." else absolute(folder)
    own = os.path.join(folder, OWN_FILE)
    if os.path.isfile(own):
        return own
    project = os.path.join(folder, PROJECT_FILE)
    if os.path.isfile(project) and _table(project, _parsed(project)) is not None:
        return project
    return ""


def read(path: str) -> tuple[dict[str, Any], dict[str, str], Source | None]:
    """The settings that a file gives, as plain values; where each comes from; and the handler that it names. Raises
    BadSetting."""
    table = _table(path, _parsed(path))
    if table is None:
        raise BadSetting(f"{path} has no table [tool.pronghorn].", "", "Add one, or name another --config.")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    known = [HANDLER, EXEC, LISTENER, *(field.name for field in fields())]
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise BadSetting(
                f"There is no setting {key!r}, which stands in {path}.", hint=_meant(path, key, value, known)
            )
        if name in values:
            raise BadSetting(f"{path} has {name} twice.", f"{key} is the same setting.", "Leave one of them out.")
        if name == LISTENER:
            values[LISTENERS], origins[LISTENERS] = value, f"[[{LISTENER}]] in {os.path.basename(path)}"
            continue
        values[name], origins[name] = value, f"{key} in {os.path.basename(path)}"
    source = source_of({key: values.pop(key, None) for key in (HANDLER, EXEC)}, path)
    return values, origins, source


def peek(path: str, names: Collection[str]) -> dict[str, Any]:
    """What a file gives for these settings, as it stands, whatever else stands in it. Raises BadSetting."""
    found = {key.replace("-", "_"): value for key, value in (_table(path, _parsed(path)) or {}).items()}
    mine = {name: found[name] for name in names if name in found}
    settle(mine, {name: f"{name} in {os.path.basename(path)}" for name in mine})
    return mine


def _without_addresses(tables: Any) -> Any:
    if not isinstance(tables, list | tuple):
        return tables
    return tuple({**each, BIND: ()} if isinstance(each, dict) else each for each in tables)


def _meant(path: str, key: str, value: Any, known: list[str]) -> str:
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        if key == LISTENERS:
            return "Write [[listener]] above each."
        if os.path.basename(path) == PROJECT_FILE:
            return "Settings stand in [tool.pronghorn] itself."
        ours = f"[tool.pronghorn] is for {PROJECT_FILE}. " if key == TABLE[0] else ""
        return f"{ours}Here settings stand at the top, without a table."
    close = nearest(key.replace("-", "_"), known)
    return close if close.startswith("Did") else "'pronghorn serve --help' tells all settings."


def _parsed(path: str) -> dict[str, Any]:
    import tomllib

    try:
        # O_NONBLOCK: to open a FIFO would wait for somebody to write.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                why, hint = "It is no regular file.", "It is read again at each reload: give a file."
                raise BadSetting(f"The settings file {path} cannot be read.", why, hint)
            return tomllib.load(file)
    except OSError as error:
        what, hint = f"The settings file {path} cannot be read.", "Name another one with --config."
        if isinstance(error, PermissionError):
            hint = "Let that user read it; its folders, too."
        raise BadSetting(what, unreadable.why(path, error), hint) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number beyond all bounds
        raise BadSetting(f"{path} is not TOML.", f"{error}.", 'Strings stand in quotes: model = "epoll"') from None


def _table(path: str, parsed: Mapping[str, Any]) -> dict[str, Any] | None:
    """The whole of a file of ours; of a pyproject.toml its table, if there is one."""
    if os.path.basename(path) != PROJECT_FILE:
        return dict(parsed)
    found: Any = parsed
    for part in TABLE:
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None
