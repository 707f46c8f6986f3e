"""The C programs of this folder, compiled once a run: two servers and the load client.

Law: without a C compiler nothing fails: there are no C servers then, and load.py loads in the place of load.c.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = "-std=c11 -O2 -Wall -Wextra -Werror -D_GNU_SOURCE".split()
PROGRAMS = ("load", "epoll_server", "select_server")


class NotCompiled(Exception):
    """The compiler does not take a program; the text is its complaint."""


def compiler() -> str | None:
    """The C compiler: $CC, or cc, where there is one."""
    return shutil.which(os.environ.get("CC") or "cc")


def compile_all(folder: Path) -> dict[str, str]:
    """The paths of the programs, in `folder`; none without a compiler. NotCompiled if it refuses one."""
    command = compiler()
    if command is None:
        return {}
    for name in PROGRAMS:
        words = [command, *FLAGS, "-o", str(folder / name), str(HERE / f"{name}.c")]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise NotCompiled(f"{' '.join(words)}\n{done.stderr}")
    return {name: str(folder / name) for name in PROGRAMS}


@cache
def programs() -> dict[str, str]:
    """The programs of this process, in a folder that goes with it."""
    folder = tempfile.mkdtemp(prefix="bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return compile_all(Path(folder))
