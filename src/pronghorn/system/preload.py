"""`--preload`: modules that the supervisor imports before it forks, so that all workers share them.

Law: libraries, never the handler: whatever the supervisor has imported stays as it is until the next start or upgrade,
and a reload has to take the handler's new code. They are imported once, at the start, when no client is served yet. A
thread does not live on in a forked process, so a module that starts one is refused; signal handlers are put back. Where
workers serve as another user, root imports only files that this user cannot change.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterable

from pronghorn.errors import BadSetting
from pronghorn.settings import Settings
from pronghorn.settings.source import Source
from pronghorn.system import privileges
from pronghorn.system.signals import SignalPipe
from pronghorn.system.trusted_paths import may_change


def preload(settings: Settings, sources: Iterable[object]) -> None:
    """Imports the modules. Raises BadSetting for one that cannot be shared by processes, and for the module of a
    handler in `sources`."""
    if not settings.preload:
        return
    handlers = {signum: signal.getsignal(signum) for signum in SignalPipe.TAKEN}
    before = set(sys.modules)
    for name in settings.preload:
        threads = _threads()
        _import(name)
        if _threads() > threads:
            why = "A thread does not live on in a worker, and what it holds locked stays so for ever."
            raise BadSetting(f"--preload: {name!r} starts a thread.", why, "Leave it out: each worker imports it then.")
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    _check(set(sys.modules) - before, sources)
    gc.collect()
    gc.freeze()  # else the first collection in each worker would write to all of that memory


def _import(name: str) -> None:
    what = f"--preload: {name!r} cannot be imported."
    try:
        top = importlib.util.find_spec(name.partition(".")[0])
        _refuse_changeable(top.origin if top is not None else None, name)
        importlib.import_module(name)
    except BadSetting:
        raise
    except BaseException as error:
        why = f"{type(error).__name__}: {error}."
        raise BadSetting(what, why, "Name a module that is installed; the working folder is not looked at.") from None


def _check(modules: set[str], sources: Iterable[object]) -> None:
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    for name, file in files.items():
        _refuse_changeable(file, name)
    for source in sources:
        if isinstance(source, Source) and source.is_users_code:
            place = source.name.rpartition(":")[0] or source.name
            if place in modules or os.path.abspath(place) in files.values():
                why = "A reload could not take its new code any more."
                hint = "Preload the libraries that it imports, and not the handler."
                raise BadSetting(f"--preload imports the handler, {place}.", why, hint)


def _refuse_changeable(file: str | None, name: str) -> None:
    person = privileges.person
    if person is None or person.uid == 0 or not file or not os.path.isabs(file):
        return
    if may_change(file, person.uid, person.groups):
        why = f"User {person.uid}, whom workers serve as, may change {file}, and root would run it."
        raise BadSetting(f"--preload: {name!r} is not safe.", why, "Install it as root, or leave it out.")


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
