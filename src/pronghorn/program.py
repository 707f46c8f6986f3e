"""The server's own program: how it is started, by the command line and again for an upgrade.

Law: the settings travel in a descriptor, so that they show in no `ps` and need no quoting.
"""

from __future__ import annotations

import fcntl
import os
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


def anonymous_file(content: bytes) -> int:
    """A descriptor, inheritable, from which `content` can be read; the file has no name. With a content nobody can
    change it any more, where the system can seal it."""
    kept = content
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pronghorn-boot", os.MFD_ALLOW_SEALING)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.set_inheritable(fd, True)
    while content:
        content = content[os.write(fd, content) :]
    os.lseek(fd, 0, os.SEEK_SET)
    if kept and hasattr(fcntl, "F_ADD_SEALS") and hasattr(os, "memfd_create"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd
