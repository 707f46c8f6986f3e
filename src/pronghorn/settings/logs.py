"""Settings of the log: where it goes, in which form, and how much of it."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import NOW, RESTART, Option
from pronghorn.settings.process import Process

LOG_LEVELS = tuple("debug info warning error".split())
LOG_FORMATS = ("text", "json")


class Logs(Process, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where records go, and which."""

    log_file: Annotated[
        str,
        "File that the log is appended to, in place of standard error (-); USR1 opens it anew.",
        Option(metavar="PATH", at=RESTART),
    ] = ""
    log_format: Annotated[
        str, "Form of the log: text, or one JSON object in each line.", Option(choices=LOG_FORMATS, at=RESTART)
    ] = "text"
    log_config: Annotated[
        str,
        "File for Python's logging, in TOML or JSON (logging.config.dictConfig): the server's records are those of "
        "the logger pronghorn.error. Read at the start.",
        Option(metavar="PATH", at=RESTART),
    ] = ""
    access_log: Annotated[
        str,
        "File that the access log is appended to, one line for each connection at its end; - is standard output.",
        Option(metavar="PATH", at=NOW),
    ] = ""
    access_log_format: Annotated[
        str,
        "Form of the access log: text, json, or fields between braces, such as '{peer} {state} {log.device}'.",
        Option(metavar="FORMAT", unit="access log format", at=NOW),
    ] = "text"
    log_level: Annotated[str, "Least important record that is logged.", Option(choices=LOG_LEVELS, at=NOW)] = "info"
    observer: Annotated[
        tuple[str, ...],
        "Observer of your own, module:name or path/file.py:name: called with the server's events, in workers and in a "
        "process beside the supervisor. May be given more than once.",
        Option(metavar="NAME"),
    ] = ()
