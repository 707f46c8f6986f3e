"""Which running server `pronghorn ctl` and its like ask: the options that say so, and the search.

Law: the command line counts first, then the environment, then the settings file, as for the server itself. Without any
of the three it is the only server that runs, or of several the one that is named after the file's first address. A
settings file that cannot be read is an error only where the server cannot be found without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import rich_click as click
from click.core import ParameterSource

from pronghorn.cli.layers import CONFIG
from pronghorn.control import client
from pronghorn.control.server import AUTO, OFF
from pronghorn.errors import BadSetting, PronghornError
from pronghorn.listening.addresses import parse_bind, places, spoken
from pronghorn.settings import layers

NAME, SOCKET, CHDIR, BIND = "name", "control_socket", "chdir", "bind"
NAME_HELP = (
    "The server's name: what it was given as --name, or its first address. Not needed in a folder whose settings file "
    "tells it, or if only one is running."
)
SOCKET_HELP = "The control socket itself, as it was given to the server as --control-socket."
FILE_HELP = (
    "The server's settings file, for its name and its control socket. Without this, the one that serve would find in "
    "the working folder."
)
OPTIONS = (
    click.option("--name", "-n", metavar="NAME", envvar="PRONGHORN_NAME", show_envvar=True, help=NAME_HELP),
    click.option("--socket", metavar="PATH", envvar="PRONGHORN_CONTROL_SOCKET", show_envvar=True, help=SOCKET_HELP),
    click.option("--config", "-c", metavar="FILE", envvar=CONFIG, show_envvar=True, help=FILE_HELP),
)


def takes_server(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options that say which server is meant; `finder` takes their values."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def finder(ctx: click.Context, values: dict[str, Any]) -> Callable[[], str]:
    """A function that finds the control socket anew at each call, as `socket_of` does; takes the values of OPTIONS out
    of the command's."""
    options = {option: values.pop(option) for option in ("name", "socket", "config")}
    typed = {option for option in options if ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE}
    return lambda: socket_of(options, typed)


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
