"""Settings of the server as a process: its name, its owner, its log."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import NOW, RESTART, option
from pronghorn.settings.tls import Tls

LOG_LEVELS = tuple("debug info warning error".split())
LOG_FORMATS = ("text", "json")


class Process(Tls, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the system sees of the server."""

    name: Annotated[
        str,
        option("Name of this server, for `pronghorn ctl --name` and the control socket. Without it, the first address.",
               "Process", short="-n", metavar="NAME", at=RESTART),
    ] = ""  # fmt: skip
    control_socket: Annotated[
        str,
        option("Path of the socket that `pronghorn ctl` talks to; auto takes a place of its own in $XDG_RUNTIME_DIR, "
               "/run or the temporary folder, and off does without.", "Process", metavar="PATH", at=RESTART),
    ] = "auto"  # fmt: skip
    user: Annotated[
        str,
        option("User that workers become, by name or number, before they import the handler; only root can have them do"
               " so. The supervisor stays what it is.", "Process", short="-u", metavar="NAME", at=RESTART),
    ] = ""  # fmt: skip
    group: Annotated[
        str,
        option(
            "Group that workers become; without this, the user's own.",
            "Process",
            short="-g",
            metavar="NAME",
            at=RESTART,
        ),
    ] = ""
    new_privileges: Annotated[
        bool,
        option("Let programs that the handler starts become somebody else by their file's setuid bit or capabilities: "
               "sudo, ping and sendmail need it. One that is given by --exec and has such a bit always may.",
               "Process"),
    ] = False  # fmt: skip
    umask: Annotated[
        str,
        option("Permissions that new files and unix sockets do not get, as 027.", "Process", metavar="MODE",
               unit="mode", at=RESTART),
    ] = ""  # fmt: skip
    chdir: Annotated[
        str,
        option("Folder to change to at the start: the handler is looked for there, and paths begin there.", "Process",
               metavar="FOLDER", at=RESTART),
    ] = ""  # fmt: skip
    pid_file: Annotated[
        str,
        option(
            "File that holds the supervisor's process id while it serves.",
            "Process",
            short="-p",
            metavar="PATH",
            at=RESTART,
        ),
    ] = ""

    log_file: Annotated[
        str,
        option("File that the log is appended to, in place of standard error (-); USR1 opens it anew.", "Logs",
               metavar="PATH", at=RESTART),
    ] = ""  # fmt: skip
    log_format: Annotated[
        str, option("Form of the log: text, or one JSON object in each line.", "Logs", of=LOG_FORMATS, at=RESTART)
    ] = "text"
    log_config: Annotated[
        str,
        option("File for Python's logging, in TOML or JSON (logging.config.dictConfig): the server's records are those "
               "of the logger pronghorn.error. Read at the start.", "Logs", metavar="PATH", at=RESTART),
    ] = ""  # fmt: skip
    log_level: Annotated[str, option("Least important record that is logged.", "Logs", of=LOG_LEVELS, at=NOW)] = "info"

    reload: Annotated[
        bool,
        option("Watch the handler's files and the settings file, and reload when one changes: for development.",
               "Development", at=RESTART),
    ] = False  # fmt: skip
