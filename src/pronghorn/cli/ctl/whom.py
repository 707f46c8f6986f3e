"""Which running server `pronghorn ctl` asks.

Law: the command line counts first, then the environment, then the settings file, as for the server itself. Without any
of the three it is the only server that runs, or of several the one that is named after the file's first address. A
settings file that cannot be read is an error only where the server cannot be found without it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from pronghorn.control import client
from pronghorn.control.server import AUTO, OFF
from pronghorn.errors import BadSetting, PronghornError
from pronghorn.listening.addresses import parse_bind, places, spoken
from pronghorn.settings import layers

NAME, SOCKET, CHDIR, BIND = "name", "control_socket", "chdir", "bind"


def socket_of(options: Mapping[str, str | None], typed: Collection[str]) -> str:
    """The control socket of the server that is meant. `options` are `name`, `socket` and `config`, from the line or the
    environment; those of the line are `typed`. Raises NoServer, and BadSetting for a file that was typed.
    """
    name, path = options["name"] or "", _path(options["socket"])
    if path and "socket" in typed:
        return path
    wrong = ""
    try:
        file, values = _read(options["config"])
    except BadSetting as error:
        if "config" in typed:
            raise
        file, values, wrong = "", {}, f"{error.what} {error.why} "
    if name and "name" in typed and name != values.get(NAME):
        return client.find(name)
    path = path or _path(values.get(SOCKET))
    if path:
        return os.path.join(values.get(CHDIR, ""), path)
    if not name and values.get(NAME):
        return client.find(values[NAME], f"That is its name in {file}. ")
    return client.find(name, wrong, lambda: _first_address(values.get(BIND)))


def _read(config: str | None) -> tuple[str, dict[str, Any]]:
    """The settings file, and what it says."""
    file = os.path.abspath(config) if config else layers.find()
    return file, layers.peek(file, (NAME, SOCKET, CHDIR, BIND)) if file else {}


def _first_address(bind: Any) -> str:
    """The name of a server that was given none."""
    try:
        first = bind.split(",")[0] if isinstance(bind, str) else bind[0] if bind else ""
        return spoken(places(parse_bind(first))[0]) if first else ""
    except (PronghornError, IndexError):
        return ""


def _path(value: str | None) -> str:
    return value if value and value not in (AUTO, OFF) else ""
