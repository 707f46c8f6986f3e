"""A short-lived process that imports the handler, to learn its style before anything is bound.

Law: the supervisor never imports the user's code, since it could not unload it. So a helper imports it, sends back
what it found, and ends. What the module prints meanwhile is held back, since every worker will print it again; if the
import fails it is shown, because it may be all that explains the failure. A probe removes what the import made for a
while (temporary files and folders, child processes), but runs no exit functions: these belong to processes that have
served. Only `ask` blocks, at the first start, when no client is served yet.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence

import msgspec

from pronghorn.errors import BadHandler, PronghornError, WorkerFailedToStart
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.handlers.loading import Asked, load_all
from pronghorn.settings import Settings
from pronghorn.settings.source import Source
from pronghorn.system import env_file, privileges, process_exit
from pronghorn.system.helper import Answer, Helper, Reaper
from pronghorn.system.memory import anonymous_file
from pronghorn.system.processes import die_with_parent
from pronghorn.system.stdio import outlet

LONGEST_OUTPUT = 16 * 1024


class Probe:
    """A Helper that imports the handlers that services ask for, from `folder` or else the working folder, with the
    variables of `environment`; `deadline` (monotonic) is the server's `start_timeout` from its start. Raises OSError
    when no process can be started."""

    def __init__(
        self,
        asked: Sequence[Asked],
        settings: Settings,
        reaper: Reaper,
        left: Iterable[int] = (),
        folder: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        names = [each.source.name for each in asked if isinstance(each.source, Source) and each.source.is_users_code]
        self._names = ", ".join(map(repr, dict.fromkeys(names)))
        self._output = open(anonymous_file("probe"), "rb")
        try:
            self._helper = Helper(
                lambda: _look(asked, settings, folder, environment or {}),
                settings.start_timeout,
                reaper,
                left,
                self._output.fileno(),
            )
        except OSError:
            self._output.close()
            raise
        self.pid = self._helper.pid
        self.deadline = self._helper.deadline
        self.fileno, self.listen = self._helper.fileno, self._helper.listen
        self.over, self.due, self.wait = self._helper.over, self._helper.due, self._helper.wait

    def facts(self) -> list[HandlerFacts]:
        """What the probe found of each handler, once it is over. Raises what the import raised (BadHandler,
        BadSetting), BadHandler if the import ended the process, WorkerFailedToStart if the probe is late."""
        try:
            return self._facts()
        except PronghornError:
            self._show()
            raise
        finally:
            self._output.close()

    def close(self) -> None:
        """Ends the process at once."""
        self._helper.close()
        self._output.close()

    def _facts(self) -> list[HandlerFacts]:
        helper, name = self._helper, self._names
        if not helper.ended:
            helper.close()
            why = f"After {helper.limit:g} s the import still runs."
            raise WorkerFailedToStart(f"{name} is not imported.", why, "If it needs that long, raise --start-timeout.")
        answer = helper.answer()
        if answer is None:
            status = helper.status or 0
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
            raise BadHandler(f"{name} cannot be imported.", f"The process that imported it {how}.")
        return msgspec.json.decode(answer[0], type=list[HandlerFacts])

    def _show(self) -> None:
        """Writes the end of what the handler's module printed to standard error."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - LONGEST_OUTPUT))
        try:
            outlet.write(self._output.read())
        except OSError:
            pass  # standard error has no reader, or a full pipe


def ask(
    asked: Sequence[Asked], settings: Settings, left: Iterable[int] = (), environment: dict[str, str] | None = None
) -> list[HandlerFacts]:
    """The facts of handlers, by a probe; blocks until they are there, and raises as Probe.facts."""
    reaper = Reaper()
    probe = Probe(asked, settings, reaper, left, environment=environment)
    try:
        probe.wait()
        return probe.facts()
    except BaseException:
        probe.close()
        raise
    finally:
        reaper.finish()


def _look(asked: Sequence[Asked], settings: Settings, folder: str, environment: dict[str, str]) -> Answer:
    if folder:
        os.chdir(folder)
    process_exit.begin(keep_imports=False)
    for each in asked:
        os.environ.pop(each.settings.tls_key_pass_env, None)
    privileges.forgo(settings, [each.source for each in asked])
    privileges.drop()
    die_with_parent(signal.SIGKILL)  # a change of user has cleared it
    env_file.apply(environment)
    try:
        found = load_all(asked)
        if settings.observer:
            from pronghorn.handlers import user_observers  # here: few servers have any

            user_observers.check(settings.observer)
        return msgspec.json.encode([each.facts for each in found]), []
    finally:
        process_exit.remove_temporary_folders()
        process_exit.flush_files(process_exit.open_files())
        process_exit.end_children()
