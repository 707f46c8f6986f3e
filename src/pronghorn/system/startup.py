"""What a server takes on before it serves, and puts back afterwards: folder, umask, log file, process id file; and
whom its workers become.

Law: once, at the start, and before anything is bound; a reload cannot change it. The folder comes first, since every
other path is one from there; the log file comes after the user is known, since it shall be his.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import Any

from pronghorn.errors import BadSetting
from pronghorn.events import Event, PathAtRisk
from pronghorn.settings import Settings
from pronghorn.system import log_file, privileges, trusted_paths
from pronghorn.system.log_file import LogFile
from pronghorn.system.pid_file import PidFile

STANDARD_ERROR = "-"  # as a --log-file


class Surroundings:
    """A context; entering it raises BadSetting for what cannot be, and nothing has changed then.

    `before` is the process that an upgrade replaces. Afterwards all is as it was: a script may go on.
    """

    def __init__(self, settings: Settings, before: int = 0) -> None:
        self._settings = settings
        self._before = before
        self._undo = ExitStack()

    def __enter__(self) -> Surroundings:
        settings = self._settings
        with ExitStack() as undo:
            if settings.chdir:
                self._change_folder(settings.chdir, undo)
            if settings.umask:
                undo.callback(os.umask, os.umask(_mode(settings.umask)))
            undo.callback(setattr, privileges, "person", None)
            privileges.person = privileges.resolve(settings.user, settings.group)
            self._pid_file = PidFile(settings.pid_file, self._before)
            undo.callback(self._pid_file.remove)
            log_file.current = LogFile("" if settings.log_file == STANDARD_ERROR else settings.log_file)
            undo.callback(_close_log)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, at: Any) -> None:
        self._undo.close()

    def serving(self) -> None:
        """The server serves: its process id is told. Raises BadSetting if the file cannot be written."""
        self._pid_file.write()

    def at_risk(self, config: str) -> list[Event]:
        """What the user whom workers become could have root do by a file: the settings file `config`, that of
        `--log-config`, and the process id file."""
        person = privileges.person
        if person is None or person.uid == 0:
            return []
        settings = self._settings
        paths = {"config": config, "log_config": settings.log_config, "pid_file": settings.pid_file}
        return [
            PathAtRisk(path, person.uid, setting)
            for setting, path in paths.items()
            if path and trusted_paths.may_change(path, person.uid, person.groups)
        ]

    def descriptors(self) -> list[int]:
        """What workers need not keep."""
        return [*log_file.current.descriptors(), *self._pid_file.descriptors()]

    def _change_folder(self, folder: str, undo: ExitStack) -> None:
        try:
            before = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, before)
            os.chdir(folder)
            undo.callback(os.chdir, before)
        except OSError as error:
            raise BadSetting(f"--chdir is {folder!r}.", f"{error.strerror}.", "Name a folder that exists.") from None


def _mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise BadSetting(f"--umask is {text!r}.", "A umask is three figures from 0 to 7.", "Write 022, or 027.")
    return int(text, 8)


def _close_log() -> None:
    log_file.current.close()
    log_file.current = LogFile()
