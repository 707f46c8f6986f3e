"""`--log-config`: a file that says where records go, in the words of logging.config.dictConfig.

Law: the supervisor reads it once, before it forks, so that workers inherit what it opened, as they do descriptor 2. It
is the operator's file: classes that it names are imported here, from what is installed.
"""

from __future__ import annotations

from typing import Any

from pronghorn.errors import BadSetting

HINT = "See logging.config in Python's manual; `version = 1` is required."


def read(path: str) -> dict[str, Any]:
    """What the file says: JSON if its name ends so, else TOML. Raises BadSetting."""
    import json  # not every server needs it
    import tomllib

    what = f"--log-config is {path!r}."
    try:
        with open(path, "rb") as file:
            found = json.load(file) if path.endswith(".json") else tomllib.load(file)
    except OSError as error:
        raise BadSetting(what, f"{error.strerror}.", "Name a file that exists and can be read.") from None
    except ValueError as error:
        raise BadSetting(what, f"It cannot be read: {error}.", HINT) from None
    if not isinstance(found, dict):
        raise BadSetting(what, "It holds no table.", HINT)
    return found


def apply(path: str) -> None:
    """Have Python's logging as the file says; loggers that it does not name stay. Raises BadSetting."""
    import logging.config

    wanted = {"disable_existing_loggers": False, **read(path)}
    try:
        logging.config.dictConfig(wanted)
    except Exception as error:
        because = f" {error.__cause__}" if error.__cause__ is not None else ""
        raise BadSetting(f"--log-config is {path!r}.", f"It cannot be used: {error}.{because}", HINT) from None
