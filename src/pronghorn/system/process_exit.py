"""The end of a worker or a child, as Python ends a program: threads, exit functions, files, child processes.

Law: what Python does between the last line of a script and exit(3) is done here, in Python's order: threads that are no
daemons and executors are joined, exit functions and finalizers run, files are flushed and temporary ones removed. Then
the process calls os._exit, because the stack below belongs to the supervisor, or to the script that called serve().
Nothing here lasts longer than its deadline: what has not ended by then is named, and lost.

A forked process leaves to its parent what the parent has registered or created for its own end: temporary folders,
finalizers, child processes. Only exit functions that came with an import run in a worker too, as those of a handler
that a script imported before it called serve(): the handler's state is in the worker.

Tried and dropped: Py_FinalizeEx (by Py_Exit). It would run every `__del__` as well, but daemon threads that sit in a
handler's C code crash it now and then, and a crash at the end costs the exit status.
"""

from __future__ import annotations

import _io
import _thread
import atexit
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pronghorn.system.processes import child_asker, children_of, kill

BEAT = 0.5  # seconds between two heartbeats, and between two looks at the deadline
MOMENT = 0.3  # seconds that there are in any case, for what was cut at the deadline and cleans up
REHEARSALS = 16  # as in serving/rehearsal.py
LAST = 0.5  # seconds that child processes get between SIGTERM and SIGKILL
CLOSED_BY_DEL = (("tempfile", "_TemporaryFileWrapper"), ("zipfile", "ZipFile"), ("shelve", "Shelf"))
Late = Callable[[tuple[str, ...]], None]


class OwnThread(threading.Thread):
    """A thread of the server that runs handlers, and that is not joined at the end. It is no daemon: the threads that a
    handler starts in it would be daemons too."""

    def __init__(self, target: Callable[..., object], *arguments: Any) -> None:
        super().__init__(target=target, args=arguments, daemon=False)


def _nothing() -> None:
    return None


def begin(*, keep_imports: bool) -> None:
    """In a process that was just forked: forget what the parent does at its own end. With `keep_imports` the exit
    functions of imported modules stay; those of the script itself and of the standard library go."""
    if keep_imports:
        atexit.unregister(_Foreign())  # type: ignore[arg-type]
    else:
        atexit._clear()
    finalizers: Any = weakref.finalize
    for each in list(finalizers._registry):
        each.atexit = False
    finalizers._registered_with_atexit = False
    if (logging := sys.modules.get("logging")) is not None:
        atexit.register(logging.shutdown)
    if (process := sys.modules.get("multiprocessing.process")) is not None:
        process._children.clear()
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)


class _Foreign:
    """Equal to every exit function that is the parent's: atexit.unregister compares."""

    def __eq__(self, function: object) -> bool:
        inner: Any = getattr(function, "func", function)  # of functools.partial
        place = str(getattr(inner, "__module__", None) or "")
        return place in ("", "__main__") or place.partition(".")[0] in sys.stdlib_module_names

    __hash__ = None  # type: ignore[assignment]


def end(deadline: Callable[[], float], late: Late, beat: Callable[[], None] = _nothing) -> None:
    """Do all that Python does at the end of a program but exit(3), until the deadline (monotonic; it may change
    meanwhile). `late` is called with the names of what has not ended by then, `beat` twice a second."""
    soonest = time.monotonic() + MOMENT

    def until() -> float:
        return max(soonest, deadline())

    _join_threads(until, late, beat)
    _run_exit_functions(until, late, beat)
    flush_files(open_files())
    end_children()


# Threads and executors


def _join_threads(deadline: Callable[[], float], late: Late, beat: Callable[[], None]) -> None:
    calls = getattr(threading, "_threading_atexits", ())  # executors: no more jobs, and their threads end
    if not calls and (_thread._count() == 0 or not any(True for _ in _others())):
        return
    done = threading.Event()

    def join() -> None:
        try:
            for call in reversed(calls):
                call()
            while others := list(_others()):
                for each in others:
                    each.join()
        finally:
            done.set()

    threading.Thread(target=join, daemon=True, name="the end").start()
    while not done.wait(max(0.0, min(BEAT, deadline() - time.monotonic()))):
        beat()
        if time.monotonic() >= deadline():
            late(tuple(f"thread {each.name!r}{_place(each)}" for each in _others()) or ("an executor",))
            return


def _others() -> Iterator[threading.Thread]:
    """The threads that Python joins."""
    aside, ours = (threading.main_thread(), threading.current_thread()), (OwnThread, threading._DummyThread)
    return (each for each in threading.enumerate() if not (each.daemon or each in aside or isinstance(each, ours)))


def _place(thread: threading.Thread) -> str:
    """The target of a thread, and the line that it is at."""
    frame: Any = sys._current_frames().get(thread.ident or 0)
    target = getattr(getattr(thread, "_target", None), "__qualname__", "")
    if frame is None:
        return f" ({target})" if target else ""
    where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    return f" ({target}, at {where})" if target else f" (at {where})"


# Exit functions


def _run_exit_functions(deadline: Callable[[], float], late: Late, beat: Callable[[], None]) -> None:
    """multiprocessing waits in one for child processes that are no daemons: they are ended at the deadline."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None or not process._children:
        atexit._run_exitfuncs()
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(max(0.0, min(BEAT, deadline() - time.monotonic()))):
            beat()
            if time.monotonic() >= deadline():
                left = list(process._children)
                late(tuple(f"process {each.name!r}" for each in left))
                for each in left:
                    each.terminate()
                done.wait(LAST)
                for each in left:
                    each.kill()
                return

    threading.Thread(target=watch, daemon=True, name="the end").start()
    atexit._run_exitfuncs()
    done.set()


# Files


def flush_files(files: list[Any]) -> None:
    """Write what is in the buffers of open files; compressed ones are brought to their end, and temporary ones are
    removed. A file that cannot be written loses what it had, as at a program's end."""
    for each in files:
        if isinstance(each, _io.TextIOWrapper) and not _closed(each):  # first: what is below may be of the next
            _try(each.flush)
    for each in files:
        if type(each).__module__ not in ("_io", "io"):  # gzip's has a trailer to write
            _try(each.close)
    for each in files:
        if isinstance(each, _io._BufferedIOBase) and not _closed(each):
            _try(each.flush)


def open_files() -> list[Any]:
    """Files that Python writes or closes when it ends: those with a buffer, and those that a `__del__` closes."""
    objects = gc.get_objects()
    wanted = _file_classes(set(map(type, objects)))
    return [each for each in objects if type(each) in wanted] if wanted else []


def _file_classes(classes: Iterable[type]) -> set[type]:
    by_del = tuple(getattr(sys.modules[name], kind) for name, kind in CLOSED_BY_DEL if name in sys.modules)
    no_files = (_io.FileIO, _io.BytesIO, _io.StringIO, getattr(sys.modules.get("socket"), "SocketIO", _io.FileIO))
    return {
        kind
        for kind in classes
        if (issubclass(kind, _io._IOBase) and not issubclass(kind, no_files)) or issubclass(kind, by_del)
    }


def _is_unbuffered(handler: Any) -> bool:
    """Whether a handler of logging, one of ours or of logging itself, has no buffer."""
    return type(handler).__module__ == "logging" or type(handler).__module__.startswith("pronghorn.observers.")


def _classes() -> set[type]:
    """All classes that there are."""
    found: set[type] = set()
    fresh: list[type] = [object]
    while fresh:
        new: set[type] = set(type.__subclasses__(fresh.pop())) - found
        found |= new
        fresh += new
    return found


def _is_written(file: Any) -> bool:
    try:
        return bool(file.writable())
    except AttributeError:
        return True
    except Exception:  # closed, or detached
        return False


def _closed(file: Any) -> bool:
    try:
        return bool(file.closed)
    except Exception:
        return True


def _try(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        pass  # as Python does at its end


def remove_temporary_folders() -> None:
    """Remove the folders of tempfile.TemporaryDirectory, as a process does that runs no exit functions."""
    tempfile = sys.modules.get("tempfile")
    for each in list(getattr(weakref.finalize, "_registry", ())) if tempfile is not None else ():
        if (info := each.peek()) is not None and each.atexit and isinstance(info[0], tempfile.TemporaryDirectory):  # type: ignore[union-attr]
            _try(each)


class Forks:
    """The end of the children of a process that forks often. Each page of memory that a child touches is copied, so a
    child looks only at what may have come since the fork: one that has objects of known classes only, none of them of
    files, has opened no file. To be made before the first fork: it writes what the buffers of files and logs hold, so
    that no child writes it again."""

    def __init__(self) -> None:
        files = open_files()
        for each in files:
            if isinstance(each, (_io.TextIOWrapper, _io._BufferedIOBase)) and not _closed(each):
                _try(each.flush)
        below = {id(each.buffer) for each in files if isinstance(each, _io.TextIOWrapper) and not _closed(each)}
        self._files = [each for each in files if id(each) not in below and _is_written(each)]
        classes = _classes()
        self._others = classes - _file_classes(classes)
        self._logs: list[Any] | None = None  # the handlers of logging, if none has a buffer
        logging: Any = sys.modules.get("logging")
        if logging is not None:
            handlers = [handler for reference in logging._handlerList if (handler := reference()) is not None]
            for handler in handlers:
                _try(handler.flush)
            if all(map(_is_unbuffered, handlers)):
                self._logs = list(logging._handlerList)
        self._has_more = True
        self._flushes = [each.flush for each in self._files if type(each).__module__ in ("_io", "io")]
        self._all_plain = len(self._flushes) == len(self._files)
        self._has_children = child_asker()
        self._executors = getattr(threading, "_threading_atexits", ())
        self._clear: Callable[[], object] = atexit._clear
        self._is_new = True

    def look(self) -> None:
        """Before each fork: note whether the child has more to forget than exit functions."""
        finalizers: Any = weakref.finalize
        self._has_more = bool(finalizers._registry) or "multiprocessing.process" in sys.modules
        if self._is_new:  # here, when all is there that the process serves with: no child looks at it
            self._is_new = False
            gc.freeze()
            self._rehearse()

    def begin(self) -> None:
        """In a child, at its begin."""
        if self._has_more:
            begin(keep_imports=False)
        else:
            self._clear()

    def end(self, deadline: Callable[[], float], late: Late) -> None:
        """In a child, at its end: see end()."""
        if not self._is_quiet():
            _join_threads(deadline, late, _nothing)
            _run_exit_functions(deadline, late, _nothing)
        if self._has_other_logs():
            sys.modules["logging"].shutdown()
        known = self._knows_all()
        if known and self._all_plain:
            self._flush()
        else:
            flush_files(self._files if known else [*self._files, *open_files()])
        if self._has_children():
            end_children()

    def _rehearse(self) -> None:
        """In the parent: Python adapts the code, and finds the names, that children need. See serving/rehearsal.py."""
        self._clear = _nothing
        try:
            for _ in range(REHEARSALS):
                if not self._has_more:
                    self.begin()
                self._is_quiet(), self._has_other_logs(), self._knows_all(), self._has_children()
                self._flush()
        finally:
            self._clear = atexit._clear

    def _is_quiet(self) -> bool:
        """Whether there are no threads, no executors and no exit functions."""
        return not (self._executors or _thread._count() or atexit._ncallbacks())

    def _has_other_logs(self) -> bool:
        logging: Any = sys.modules.get("logging")
        return logging is not None and logging._handlerList != self._logs

    def _knows_all(self) -> bool:
        """Whether all objects that are new since the first fork are of classes that were there, and are no files."""
        return self._others.issuperset(map(type, gc.get_objects()))

    def _flush(self) -> None:
        for flush in self._flushes:
            try:
                flush()
            except Exception:  # as _try
                pass


# Child processes


def end_children() -> None:
    """End the child processes that are left, and their children: SIGTERM, and SIGKILL half a second later. A child with
    a session of its own (setsid(2)) was detached on purpose, and lives on. Nothing happens where there is no /proc."""
    left = _children() if child_asker()() else []
    if not left:
        return
    for pid in left:
        kill(pid, signal.SIGTERM)
    patience = time.monotonic() + LAST
    while (left := _children()) and time.monotonic() < patience:
        time.sleep(0.005)
    for pid in left:
        kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    """The process ids of what descends from this process and has its session, but for multiprocessing's helpers."""
    found: list[int] = []
    session = os.getsid(0)
    looked, spared = [os.getpid()], _helpers()
    while looked:
        for child in children_of(looked.pop()):
            if child in spared or _gone(child):
                continue
            try:
                if os.getsid(child) == session:
                    found.append(child)
                    looked.append(child)
            except OSError:
                continue
    return found


def _gone(pid: int) -> bool:
    """Whether a process has ended; if it is our own child, it is reaped."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except OSError:
        return False


def _helpers() -> set[int]:
    """The processes of multiprocessing that end with this one, by the end of a pipe, and then remove shared memory."""
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    server: Any = sys.modules.get("multiprocessing.forkserver")
    pids = {tracker._resource_tracker._pid} if tracker is not None else set()
    return {pid for pid in pids | ({server._forkserver._forkserver_pid} if server is not None else set()) if pid}
