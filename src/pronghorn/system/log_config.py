"""`--log-config`: the file of a configuration for logging.config.dictConfig, read and applied.

Law: the supervisor reads it once, before it forks, so that workers inherit the files that it opens. The file is the
operator's: classes that it names are imported here, from what is installed.

Root opens log files for it, and a class may open its file anew, by its name, at any time. So root takes only files
whose path no other user may change (trusted_paths.py): the names in the configuration are checked before anything is
opened, and the names that a class has made up afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from pronghorn.errors import BadSetting
from pronghorn.settings import unreadable
from pronghorn.system import privileges
from pronghorn.system.trusted_paths import refuse_shared

HINT = "See logging.config in Python's manual; `version = 1` is required."


def read(path: str) -> dict[str, Any]:
    """The configuration in the file: JSON if its name ends so, else TOML. Raises BadSetting."""
    import json  # not every server needs it
    import tomllib

    what = f"--log-config is {path!r}."
    try:
        with open(path, "rb") as file:
            found = json.load(file) if path.endswith(".json") else tomllib.load(file)
    except OSError as error:
        raise BadSetting(what, unreadable.why(path, error), "Name a file that exists and can be read.") from None
    except ValueError as error:
        raise BadSetting(what, f"It cannot be read: {error}.", HINT) from None
    if not isinstance(found, dict):
        raise BadSetting(what, "It holds no table.", HINT)
    return found


def apply(path: str) -> None:
    """Configures Python's logging by the file; loggers that it does not name stay. Raises BadSetting."""
    import logging.config

    wanted = {"disable_existing_loggers": False, **read(path)}
    before = set(_open_files())
    _trust(path, _named_files(wanted))
    try:
        logging.config.dictConfig(wanted)
    except Exception as error:
        because = f" {error.__cause__}" if error.__cause__ is not None else ""
        raise BadSetting(f"--log-config is {path!r}.", f"It cannot be used: {error}.{because}", HINT) from None
    _trust(path, set(_open_files()) - before)


def _trust(path: str, files: Iterable[str]) -> None:
    groups = privileges.person.groups if privileges.person is not None else ()
    for file in files:
        try:
            refuse_shared(file, groups)
        except FileNotFoundError:
            continue  # opening it fails with a better message
        except OSError as error:
            why = f"It names {file}, and {error.strerror}."
            hint = "Choose a folder that only root may write to: root opens the file. Or use --log-file."
            raise BadSetting(f"--log-config is {path!r}.", why, hint) from None


def _named_files(wanted: dict[str, Any]) -> list[str]:
    handlers = wanted.get("handlers")
    tables = handlers.values() if isinstance(handlers, dict) else ()
    names = [each.get("filename") for each in tables if isinstance(each, dict)]
    return [os.path.abspath(name) for name in names if isinstance(name, str)]


def _open_files() -> Iterator[str]:
    """The files of all handlers that there are, open or not yet."""
    import logging

    for reference in list(getattr(logging, "_handlerList", ())):
        handler = reference()
        if isinstance(handler, logging.FileHandler):
            yield handler.baseFilename
