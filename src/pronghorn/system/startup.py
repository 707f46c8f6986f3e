"""What a server changes of its process at its start, and undoes at its end: folder, umask, user, log and pid file.

Law: once, before anything is bound; a reload cannot change it. The folder comes first, since the other paths begin
there; the log file comes after the user, to whom it will belong.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from typing import Any

from pronghorn.errors import BadSetting
from pronghorn.events import Event, PathAtRisk, SecretsExposed
from pronghorn.settings import Settings
from pronghorn.system import env_file, log_file, privileges, trusted_paths
from pronghorn.system.log_file import LogFile
from pronghorn.system.pid_file import PidFile

STANDARD_ERROR = "-"  # as a --log-file


class ProcessSetup:
    """A context manager. Entering it raises BadSetting for what cannot be done, and changes nothing then; leaving it
    undoes all, so that a script may go on. `before` is the process that an upgrade replaces."""

    def __init__(self, settings: Settings, before: int = 0) -> None:
        self._settings = settings
        self._before = before
        self._undo = ExitStack()

    def __enter__(self) -> ProcessSetup:
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
        """Writes the process id file, now that the server serves. Raises BadSetting if that fails."""
        self._pid_file.write()

    def at_risk(self, config: str) -> list[Event]:
        """The files by which the workers' user could have root do something: the settings file `config`, that of
        `--log-config`, and the process id file; and files of secrets that everybody may read."""
        settings = self._settings
        exposed: list[Event] = [SecretsExposed(each) for each in env_file.exposed(settings.env_file)]
        secrets = {
            "--admin-token-file": settings.admin_token_file if settings.admin_write else "",
            "--bus-password-file": settings.bus_password_file,
            "--tls-key-pass-file": settings.tls_key_pass_file,
        }
        exposed += [SecretsExposed(path, flag) for flag, each in secrets.items() for path in env_file.exposed([each])]
        person = privileges.person
        if person is None or person.uid == 0:
            return exposed
        paths = {"config": config, "log_config": settings.log_config, "pid_file": settings.pid_file}
        return exposed + [
            PathAtRisk(path, person.uid, setting)
            for setting, path in paths.items()
            if path and trusted_paths.may_change(path, person.uid, person.groups)
        ]

    def descriptors(self) -> list[int]:
        """The descriptors that a worker closes."""
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
