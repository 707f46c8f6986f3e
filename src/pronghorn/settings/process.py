"""Settings of the server as a process: its name, its user, its files."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import RESTART, Option
from pronghorn.settings.tls import TLS


class Process(TLS, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the system sees of the server."""

    name: Annotated[
        str,
        "Name of this server, for `pronghorn ctl --name` and the control socket. Without it, the first address.",
        Option(short="-n", metavar="NAME", at=RESTART),
    ] = ""
    control_socket: Annotated[
        str,
        "Path of the socket that `pronghorn ctl` talks to; auto takes a place of its own in $XDG_RUNTIME_DIR, /run or "
        "the temporary folder, and off does without.",
        Option(metavar="PATH", at=RESTART),
    ] = "auto"
    control_group: Annotated[
        str,
        "Group whose members may use the control socket too, for all but to stop the server: for a user who deploys. "
        "auto places the socket in /run/pronghorn then.",
        Option(metavar="NAME", at=RESTART),
    ] = ""
    user: Annotated[
        str,
        "User that workers become, by name or number, before they import the handler; only root can have them do so. "
        "The supervisor stays what it is.",
        Option(short="-u", metavar="NAME", at=RESTART),
    ] = ""
    group: Annotated[
        str, "Group that workers become; without this, the user's own.", Option(short="-g", metavar="NAME", at=RESTART)
    ] = ""
    new_privileges: Annotated[
        bool,
        "Let programs that the handler starts become somebody else by their file's setuid bit or capabilities: sudo, "
        "ping and sendmail need it. One that is given by --exec and has such a bit always may.",
    ] = False
    umask: Annotated[
        str,
        "Permissions that new files and unix sockets do not get, as 027.",
        Option(metavar="MODE", unit="mode", at=RESTART),
    ] = ""
    chdir: Annotated[
        str,
        "Folder to change to at the start: the handler is looked for there, and paths begin there.",
        Option(metavar="FOLDER", at=RESTART),
    ] = ""
    preload: Annotated[
        tuple[str, ...],
        "Module that the supervisor imports before it forks, so that workers share its memory and start sooner: a "
        "large library, not the handler. May be given more than once.",
        Option(metavar="MODULE", at=RESTART),
    ] = ()
    env_file: Annotated[
        tuple[str, ...],
        "File of environment variables for the handler, a NAME=VALUE in each line, as systemd's EnvironmentFile. May "
        "be given more than once; later ones win. Each reload reads it anew, and no message shows a value.",
        Option(metavar="FILE"),
    ] = ()
    pid_file: Annotated[
        str,
        "File that holds the supervisor's process id while it serves.",
        Option(short="-p", metavar="PATH", at=RESTART),
    ] = ""
