"""`pronghorn serve`: check what was typed, then become the lean supervisor.

Law: the process that imported click serves nobody: it replaces itself, by execv(3), with an interpreter that imports
only what serving needs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from pronghorn.cli.layers import takes_layers
from pronghorn.errors import BadSetting, PronghornError
from pronghorn.settings import fields
from pronghorn.settings.bus import broker_of
from pronghorn.settings.layers import Layers

if TYPE_CHECKING:
    from pronghorn.boot import Boot


VALUES = r"""DURATION is 500ms, 30s, 2m, 1h, or a number of seconds.

SIZE is 64KiB, 1MiB, 10MB, or a number of bytes.

NETWORK is an address or a network: 192.0.2.7, 10.0.0.0/8, 2001:db8::/32.

RULE is stream, lines, delimited(\r\n\r\n), or prefixed(2).

MODE is three octal figures, as chmod takes them: 660."""


@takes_layers(
    "serve",
    epilog=f"""{VALUES}

Each setting is also an environment variable, the one in brackets, and a key of the settings file; the command line
wins, then the environment.

Ctrl-C or SIGTERM stops accepting and lets open connections finish; a second Ctrl-C ends at once. SIGHUP reloads.""",
    tells_settings=True,
)
def command(layers: Layers) -> None:
    """Serve HANDLER, or a program, to every client that connects."""
    settings = layers.settle().settings  # a wrong setting is an error here, where there is a terminal
    if broker_of(settings.bus) or settings.bus_password_file:
        from pronghorn.cli.check import check_broker

        check_broker(settings)
    from pronghorn.boot import Boot

    become_supervisor(Boot(layers))


def become_supervisor(boot: Boot) -> NoReturn:
    """Replace this process by the server. The settings go into an anonymous file, so that no `ps` shows them; and those
    that were given as variables, and are secret, are in no environment of the server, its workers and their programs.
    """
    import msgspec

    from pronghorn.boot import server_command
    from pronghorn.system.memory import anonymous_file
    from pronghorn.system.signals import hold_signals

    try:
        fd = anonymous_file("boot", msgspec.json.encode(boot))
        os.set_inheritable(fd, True)
    except UnicodeEncodeError as error:
        raise BadSetting(
            f"{error.object!r} is not UTF-8.", hint="Give it another name, such as a link to it."
        ) from None
    for each in fields():
        if each.hides(os.environ.get(each.variable)):
            del os.environ[each.variable]
    _make_importable()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    hold_signals()
    try:
        os.execv(sys.executable, server_command(fd))
    except OSError as error:
        why = f"Its interpreter, {sys.executable}, cannot be started: {error.strerror}."
        raise PronghornError("There can be no server.", why) from None


def _make_importable() -> None:
    """With `-P` the new process looks neither beside the script nor in the working folder: add that place."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    beside = not sys.flags.safe_path and sys.path and os.path.abspath(sys.path[0]) == home
    if beside and home not in (os.path.abspath(entry) for entry in sys.path[1:]):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
