"""The server's own program: how it is started, by the command line and again for an upgrade.

Law: the settings travel in a descriptor, so that they show in no `ps` and need no quoting.
"""

from __future__ import annotations

import sys


def server_command(fd: int) -> list[str]:
    """The command that makes a server of the Boot in descriptor `fd`."""
    return module_command("pronghorn.server", str(fd))


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with the flags of this interpreter (-X, -W, -O, -I ...), and -P: the working
    folder is the handler's."""
    import subprocess  # here: whatever the supervisor has imported, every fork copies

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if not {"-P", "-I"} & set(flags):
        flags.append("-P")
    return [sys.executable, *flags, "-m", module, *arguments]
