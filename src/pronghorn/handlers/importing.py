"""Importing the user's code: by module or by path, and finding in it what was named.

Law: user code is imported here and nowhere else. The folder of a handler stands first on the path, as under `python
file.py`, with one exception: names of the standard library, and of what the server itself imports, are never looked for
there. Otherwise a file called queue.py beside the handler would take the place of the module queue when the server, or
a library, imports it for the first time. A handler's own file may have such a name: its module is given another one.
"""

from __future__ import annotations
import __future__

import errno
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from pronghorn import tracebacks
from pronghorn.errors import BadHandler, nearest

TAKEN = frozenset(sys.stdlib_module_names) | {"pronghorn", "msgspec", "uvloop", "gevent", "greenlet"}
NO_HANDLERS = (ModuleType, bool, int, float, str, bytes, tuple, list, dict, set, type(None), type(__future__.division))
"""Names of modules that no file of the user's replaces."""

_folders: set[str] = set()


class OursFirst:
    """A finder (importlib.abc.MetaPathFinder) of names that are taken: everywhere but in the handlers' folders."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if path is not None or name not in TAKEN:
            return None
        places = [each for each in sys.path if os.path.abspath(each) not in _folders]
        return PathFinder.find_spec(name, places, target)


def look_in(folder: str) -> None:
    """From now on modules are looked for in this folder before others."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _folders.add(folder)
    if OursFirst not in sys.meta_path:
        place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0
        sys.meta_path.insert(place, OursFirst)


def is_path(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def parted(name: str) -> tuple[str, str]:
    """The place and the name in it, which is empty if only a file was named. Raises BadHandler."""
    place, colon, attribute = name.rpartition(":")
    if not colon and is_path(name):
        return name, ""
    if not place or not attribute:
        raise BadHandler(f"{name!r} names no handler.", hint="Write module:name or path/file.py:name.")
    return place, attribute


def module(place: str, name: str) -> ModuleType:
    """The module at a path, or of a name, imported. Raises BadHandler; `name` is what the user asked for."""
    return users(  # type: ignore[no-any-return]
        lambda: _module_at(place) if is_path(place) else importlib.import_module(place), f"{name!r} failed to import."
    )


def attribute_of(found: Any, place: str, attribute: str) -> Any:
    """What `attribute` names; dots in it reach into objects. Raises BadHandler."""
    for part in attribute.split("."):
        if not hasattr(found, part):
            values = vars(found) if hasattr(found, "__dict__") else {}
            public = [name for name, each in values.items() if name[:1] != "_" and not isinstance(each, NO_HANDLERS)]
            hint = _hidden_file(found, place, attribute) or (nearest(part, public) if public else "")
            raise BadHandler(f"{place!r} has no {part!r}.", f"It was asked for as {f'{place}:{attribute}'!r}.", hint)
        found = getattr(found, part)
    return found


def _hidden_file(found: Any, place: str, attribute: str) -> str:
    file = f"{place.replace('.', os.sep)}.py"
    if not isinstance(found, ModuleType) or is_path(place) or not os.path.isfile(file):
        return ""
    if getattr(found, "__file__", None) == os.path.abspath(file):
        return ""
    return (
        f"The file {file} has the same name as a module of Python's: name the file, {file}:{attribute}, or rename it."
    )


def _module_at(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise BadHandler(f"There is no file {path!r}.", f"The working folder is {os.getcwd()!r}.")
    whole = os.path.abspath(path)
    folder, name = os.path.dirname(whole), os.path.splitext(os.path.basename(whole))[0]
    look_in(folder)  # so that it finds its neighbours, as under `python path/file.py`
    root, package = _package_of(folder)
    if package and root not in _folders and package.partition(".")[0] not in TAKEN:
        look_in(root)
        return importlib.import_module(f"{package}.{name}" if name != "__init__" else package)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == whole:
        return known
    if known is not None or name in TAKEN:
        name = f"{name}_file"  # the module of that name stays what it is
    return _executed(path, whole, name)


def _executed(path: str, whole: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise BadHandler(f"{path!r} is no Python file.")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[name]
        raise
    return made


def _package_of(folder: str) -> tuple[str, str]:
    """The folder that a file's outermost package lies in, and the package's dotted name; an empty one if the file is in
    none. A package is a folder with an __init__.py."""
    parts: list[str] = []
    while os.path.isfile(os.path.join(folder, "__init__.py")) and os.path.basename(folder).isidentifier():
        folder, last = os.path.split(folder)
        parts.insert(0, last)
    return folder, ".".join(parts)


def users(call: Callable[[], Any], what: str) -> Any:
    """Call the user's code. Raises BadHandler for whatever it raises, SystemExit included, with the user's frames."""
    try:
        return call()
    except BadHandler:
        raise
    except BaseException as error:
        raise BadHandler(what, tracebacks.of_users(error), _mend(error)) from None


def _mend(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "The module binds an address itself, which the server does: leave that out (bind_and_activate=False)."
    text = str(error)
    if isinstance(error, ImportError) and "relative import" in text:
        return "Name it as a module of its package, package.module:name, from the folder above; or add an __init__.py."
    if isinstance(error, (ImportError, AttributeError)):
        for folder in _folders:
            for name in TAKEN:
                if f"'{name}'" in text and os.path.exists(file := os.path.join(folder, f"{name}.py")):
                    return f"{file} has the same name as a module of Python's, which is what is imported: rename it."
    return "Mend that; modules are looked for from here." if isinstance(error, ImportError) else "Mend that."


def the_one(found: ModuleType, place: str, is_marked: Callable[[Any], bool], could_be: Callable[[Any], bool]) -> str:
    """The name of the one handler of a file: `handler`; else the only object that is marked as one; else the only
    function that could be one. Raises BadHandler, which names the candidates."""
    if hasattr(found, "handler"):
        return "handler"
    own = {
        name: each
        for name, each in vars(found).items()
        if not name.startswith("_") and not (_is_named(each) and each.__module__ != found.__name__)
    }
    names = [name for name, each in own.items() if is_marked(each)]
    names = names or [name for name, each in own.items() if inspect.isfunction(each) and could_be(each)]
    if len(names) == 1:
        return names[0]
    why = "It names a file, and no handler in it."
    if names:
        raise BadHandler(f"{place!r} has no 'handler'.", why, f"Did you mean {_listed(place, names)}?")
    raise BadHandler(f"{place!r} has no handler.", why, "Write one, or name it: path/file.py:name.")


def _is_named(found: Any) -> bool:
    """Whether it is a class or function, which knows in which module it was written."""
    return inspect.isclass(found) or inspect.isfunction(found)


def _listed(place: str, names: list[str]) -> str:
    first, last = [f"{place}:{name}" for name in names[:-1][:5]], f"{place}:{names[-1]}"
    return f"{', '.join(first)} or {last}"
