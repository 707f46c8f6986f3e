"""Settings of the server as a process: its name, its owner, its log."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import option
from pronghorn.settings.limits import Limits

LOG_LEVELS = tuple("debug info warning error".split())


class Process(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the system sees of the server."""

    name: Annotated[
        str,
        option("Name of this server, for `pronghorn ctl --name` and the control socket. Without it, the first address.",
               "Process", short="-n", metavar="NAME"),
    ] = ""  # fmt: skip
    control_socket: Annotated[
        str,
        option("Path of the socket that `pronghorn ctl` talks to; auto takes a place of its own in $XDG_RUNTIME_DIR, "
               "/run or the temporary folder, and off does without.", "Process", metavar="PATH"),
    ] = "auto"  # fmt: skip
    log_level: Annotated[str, option("Least important record that is logged.", "Logs", of=LOG_LEVELS)] = "info"

    reload: Annotated[
        bool,
        option("Watch the handler's files and the settings file, and reload when one changes: for development.",
               "Development"),
    ] = False  # fmt: skip
